"""Where stacks train and minima are measured."""

import torch


def choose_device() -> torch.device:
    """The GPU if this process has one, else the CPU.

    Single precision is just that: convolutions on a GPU would else round to TF32's 10 bits.
    """
    if torch.cuda.is_available():
        torch.backends.cudnn.allow_tf32 = False  # for matrix products it is off already
        return torch.device("cuda")
    return torch.device("cpu")
