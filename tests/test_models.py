"""Replica-stacked networks against plain torch.nn modules."""

from math import sqrt

import pytest
import torch
from jaxtyping import TypeCheckError
from reference import PlainMLP, plain
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from lmc_ray.errors import UserError
from lmc_ray.models import MLP, Network, ResNet, ResNet18, StableResNet, build
from lmc_ray.randomness import Dropout, stream

RESNETS = ["resnet18-2", "stable-resnet-2"]
NETWORKS = ["mlp-6", "mlp-8-4", "mlp-4-10-6", *RESNETS]
SHAPE = (3, 8, 8)
CLASSES = 5


def net(name: str) -> Network:
    return build(name, SHAPE, CLASSES)


def stack(network: Network, replicas: int = 3) -> Tensor:
    """Parameters that are nothing special: norms' scales and shifts differ from 1 and 0."""
    theta = torch.stack([network.initial(stream(r, "initial")) for r in range(replicas)])
    return theta + 0.1 * torch.randn(theta.shape, generator=stream(0, "noise"), dtype=theta.dtype)


def images(replicas: int = 3, batch: int = 7) -> Tensor:
    generator = stream(0, "images")
    return torch.rand(replicas, batch, *SHAPE, generator=generator, dtype=torch.float64)


def test_the_size_of_the_papers_resnet() -> None:
    assert ResNet18((3, 32, 32), 20, 100).layout.size == 1_108_680


def test_the_size_of_stable_sgds_resnet_without_what_it_does_not_use() -> None:
    """A second convolution a block is declared there, and the parameters are counted with them."""
    network = StableResNet((3, 32, 32), 20, 100)
    unused = sum(9 * block.wide**2 for block in network.blocks)
    assert network.layout.size == 1_108_680 - unused


def test_the_size_of_the_papers_mlp() -> None:
    assert MLP((1, 28, 28), (256, 256), 10).layout.size == 784 * 256 + 256 + 256 * 257 + 257 * 10


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_the_plain_module(name: str) -> None:
    network, x = net(name), images()
    theta = stack(network)
    module = plain(name, SHAPE, CLASSES)
    found = network.logits(theta, x)
    assert found.shape == (3, 7, CLASSES)
    for r in range(3):
        vector_to_parameters(theta[r], module.parameters())
        torch.testing.assert_close(found[r], module(x[r]), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_layout_names_every_parameter_once(name: str) -> None:
    network = net(name)
    module = plain(name, SHAPE, CLASSES)
    shapes = [tuple(parameter.shape) for parameter in module.parameters()]
    assert list(network.layout.shapes.values()) == shapes
    theta = torch.zeros(2, network.layout.size)
    for number, view in enumerate(network.layout.views(theta).values(), start=1):
        view.add_(number)  # a view: writing to it writes to the stack
    expected = torch.cat(
        [torch.full((p.numel(),), float(n)) for n, p in enumerate(module.parameters(), start=1)]
    )
    assert torch.equal(theta, expected.expand(2, -1))


@pytest.mark.parametrize("shape", [SHAPE, (1, 20, 9)])
@pytest.mark.parametrize("name", NETWORKS)
def test_multiply_adds_are_those_of_the_plain_module(name: str, shape: tuple[int, ...]) -> None:
    """Also where a stride of 2 does not halve a side evenly."""
    counted: list[int] = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        weight = module.get_parameter("weight")
        counted.append(weight.numel() * output[0, 0].numel() if weight.dim() == 4 else 0)
        counted[-1] += weight.numel() if weight.dim() == 2 else 0

    module = plain(name, shape, CLASSES)
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            part.register_forward_hook(count)
    module(torch.zeros(2, *shape, dtype=torch.float64))
    network = build(name, shape, CLASSES)
    assert sum(network.multiply_adds) == sum(counted)
    assert network.multiply_adds[0] == counted[0]


def test_views_follow_their_stack_and_no_other() -> None:
    """Asking for the views of several stacks in any order never mixes them up."""
    layout = net("mlp-6").layout
    stacks = [torch.full((1, layout.size), float(n)) for n in range(4)]
    for n in (0, 1, 0, 2, 3, 1, 0):
        for view in layout.views(stacks[n]).values():
            assert (view == n).all()
    stacks[0].fill_(9)
    assert all((view == 9).all() for view in layout.views(stacks[0]).values())


@pytest.mark.parametrize("name", RESNETS)
def test_a_last_batch_of_one_image_where_one_pixel_is_left_of_it(name: str) -> None:
    """As with 8×8 digits: 1,257 training images in batches of 8 leave one."""
    network = build(name, (1, 8, 8), CLASSES)
    theta = torch.stack([network.initial(torch.Generator().manual_seed(s)) for s in (1, 2)])
    images, labels = torch.rand(2, 1, 1, 8, 8, dtype=torch.float64), torch.zeros(2, 1).long()
    loss, gradient = network.loss_and_gradient(theta, images, labels)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ["mlp-6", *RESNETS])
def test_logits_can_be_differentiated_after_they_were_evaluated(name: str) -> None:
    network = net(name)
    theta = stack(network, 1).requires_grad_()
    with torch.no_grad():
        network.logits(theta, images(1))
    (gradient,) = torch.autograd.grad(network.logits(theta, images(1)).square().sum(), [theta])
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_a_replica_is_the_same_alone_and_in_a_stack(name: str) -> None:
    network, x = net(name), images(4)
    theta = stack(network, 4)
    every = network.logits(theta, x)
    for r in range(4):
        alone = network.logits(theta[r : r + 1], x[r : r + 1])
        torch.testing.assert_close(alone[0], every[r], rtol=0, atol=1e-12)


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("kind", [ResNet18, StableResNet])
def test_resnets_groups_of_channels_are_the_replicas(kind: type[ResNet], twice: bool) -> None:
    """The form that GPUs run, all replicas in one grouped convolution, on the CPU."""
    network, x = kind(SHAPE, 2, CLASSES), images()
    theta = stack(network)
    grouped = network._grouped(network.layout.views(theta), x, twice)
    torch.testing.assert_close(grouped, network.logits(theta, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["mlp-64-32", "resnet18-4", "stable-resnet-4"])
def test_initialisation_is_pytorchs_default(name: str) -> None:
    network = net(name)
    theta = network.initial(stream(1, "initial"))
    assert theta.dtype == torch.float64
    assert torch.equal(theta, network.initial(stream(1, "initial")))
    assert not torch.equal(theta, network.initial(stream(2, "initial")))
    torch.manual_seed(0)
    modules = plain(name, SHAPE, CLASSES)
    for view, parameter in zip(
        network.layout.views(theta[None]).values(), modules.parameters(), strict=True
    ):
        ours, theirs = view[0].flatten(), parameter.detach().flatten()
        if theirs.unique().numel() == 1:  # scale and shift of a norm
            assert torch.equal(ours, theirs)
            continue
        # Both uniform in ±b: the largest of n draws is about b·n/(n+1).
        bound = float(theirs.abs().max()) * (1 + 10 / len(theirs))
        assert ours.abs().max() <= bound
        if len(ours) > 400:
            assert ours.abs().max() > 0.97 * theirs.abs().max()
            assert float(ours.std()) == pytest.approx(bound / sqrt(3), rel=0.1)
            assert abs(float(ours.mean())) < 5 * bound / sqrt(3 * len(ours))


def test_dropout_acts_on_the_hidden_units() -> None:
    network, x = MLP(SHAPE, (8, 4), CLASSES), images()
    theta = stack(network)
    drop = torch.tensor([0.0, 0.25, 0.5], dtype=torch.float64)
    factors = Dropout([0, 1, 2], drop).factors(("test",), 7, 12)
    labels = torch.zeros(3, 7, dtype=torch.int64)
    found, _ = network.loss_and_gradient(theta, x, labels, factors=factors)
    module = PlainMLP(192, 8, 4, CLASSES).double()
    for r in range(3):
        vector_to_parameters(theta[r], module.parameters())
        expected = torch.nn.functional.cross_entropy(module(x[r], factors[r]), labels[r])
        torch.testing.assert_close(found[r], expected.detach(), rtol=0, atol=1e-12)
    evaluated, _ = network.loss_and_gradient(theta, x, labels)
    assert float(evaluated[0]) == pytest.approx(float(found[0]), abs=1e-12)
    assert float(evaluated[2]) != pytest.approx(float(found[2]), abs=1e-3)


@pytest.mark.parametrize("name", RESNETS)
def test_a_resnet_has_nothing_to_drop(name: str) -> None:
    network = net(name)
    assert network.hidden == ()
    with pytest.raises(ValueError, match="no dropout"):
        network.loss_and_gradient(
            stack(network),
            images(),
            torch.zeros(3, 7, dtype=torch.int64),
            factors=torch.ones(3, 7, 4, dtype=torch.float64),
        )


def test_a_resnet_sees_its_whole_batch_and_the_mlp_does_not() -> None:
    """Batch normalisation: an example's logits depend on its companions."""
    for name, depends in (("mlp-6", False), *((name, True) for name in RESNETS)):
        network, x = net(name), images(1)
        theta = stack(network, 1)
        whole, part = network.logits(theta, x)[:, :4], network.logits(theta, x[:, :4])
        assert torch.allclose(whole, part, atol=1e-9) != depends


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mlp", "unknown network 'mlp': write mlp-"),
        ("mlp-0", "unknown network 'mlp-0'"),
        ("mlp-16-", "unknown network"),
        ("mlp-bf16", "unknown network"),
        ("resnet18-20-fp16", "unknown network"),
        ("stable-resnet-bf16", "unknown network"),
        ("mlp-8-7", "hidden widths must be even"),
        ("resnet18", "unknown network"),
        ("resnet18-0", "unknown network"),
        ("resnet50-4", "unknown network"),
        ("stable-resnet", "unknown network"),
        ("mlp-8\n", "unknown network"),
    ],
)
def test_unknown_networks(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        build(name, SHAPE, CLASSES)
    said = str(caught.value)
    assert "even" in said or ("resnet18-20" in said and "stable-resnet-20" in said)


def test_shapes_are_checked_while_the_tests_run() -> None:
    network = net("mlp-6")
    with pytest.raises(TypeCheckError):
        network.logits(stack(network, 2), images(3))
