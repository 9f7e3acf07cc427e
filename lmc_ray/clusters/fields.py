"""The fields of the Kubernetes and KubeRay (v1.6, ray.io/v1) objects that `cluster/kuberay` uses.

A name's fields: None for a value or a mapping with free keys, a mapping for fields within, a list
of one for a list of such. Kubernetes has more fields than this selection: add the one you need.
"""

from typing import Any

_META = dict.fromkeys(("annotations", "generateName", "labels", "name", "namespace"))
_ENV = {
    "name": None,
    "value": None,
    "valueFrom": {
        "configMapKeyRef": dict.fromkeys(("key", "name", "optional")),
        "fieldRef": dict.fromkeys(("apiVersion", "fieldPath")),
        "secretKeyRef": dict.fromkeys(("key", "name", "optional")),
    },
}
_ENV_FROM = {
    "configMapRef": dict.fromkeys(("name", "optional")),
    "prefix": None,
    "secretRef": dict.fromkeys(("name", "optional")),
}
_RESOURCES = dict.fromkeys(("claims", "limits", "requests"))
_SECURITY = dict.fromkeys(
    (
        "allowPrivilegeEscalation",
        "capabilities",
        "fsGroup",
        "privileged",
        "readOnlyRootFilesystem",
        "runAsGroup",
        "runAsNonRoot",
        "runAsUser",
        "seccompProfile",
    )
)
_CONTAINER = {
    **dict.fromkeys(
        (
            "args",
            "command",
            "image",
            "imagePullPolicy",
            "lifecycle",
            "livenessProbe",
            "name",
            "readinessProbe",
            "startupProbe",
            "workingDir",
        )
    ),
    "env": [_ENV],
    "envFrom": [_ENV_FROM],
    "ports": [dict.fromkeys(("containerPort", "name", "protocol"))],
    "resources": _RESOURCES,
    "securityContext": _SECURITY,
    "volumeMounts": [dict.fromkeys(("mountPath", "name", "readOnly", "subPath"))],
}
_VOLUME = {
    "configMap": dict.fromkeys(("defaultMode", "items", "name", "optional")),
    "csi": dict.fromkeys(
        ("driver", "fsType", "nodePublishSecretRef", "readOnly", "volumeAttributes")
    ),
    "emptyDir": dict.fromkeys(("medium", "sizeLimit")),
    "hostPath": dict.fromkeys(("path", "type")),
    "name": None,
    "nfs": dict.fromkeys(("path", "readOnly", "server")),
    "persistentVolumeClaim": dict.fromkeys(("claimName", "readOnly")),
    "projected": dict.fromkeys(("defaultMode", "sources")),
    "secret": dict.fromkeys(("defaultMode", "items", "optional", "secretName")),
}
_TOLERATION = dict.fromkeys(("effect", "key", "operator", "tolerationSeconds", "value"))
_POD = {
    **dict.fromkeys(
        (
            "affinity",
            "automountServiceAccountToken",
            "hostNetwork",
            "nodeSelector",
            "priorityClassName",
            "restartPolicy",
            "runtimeClassName",
            "serviceAccountName",
            "terminationGracePeriodSeconds",
        )
    ),
    "containers": [_CONTAINER],
    "imagePullSecrets": [{"name": None}],
    "initContainers": [_CONTAINER],
    "securityContext": _SECURITY,
    "tolerations": [_TOLERATION],
    "volumes": [_VOLUME],
}
_TEMPLATE = {"metadata": _META, "spec": _POD}
_CLUSTER = {
    **dict.fromkeys(
        (
            "enableInTreeAutoscaling",
            "gcsFaultToleranceOptions",
            "headServiceAnnotations",
            "managedBy",
            "rayVersion",
            "suspend",
            "upgradeStrategy",
        )
    ),
    "authOptions": dict.fromkeys(("enableK8sTokenAuth", "mode", "secretName")),
    "autoscalerOptions": {
        **dict.fromkeys(
            ("idleTimeoutSeconds", "image", "imagePullPolicy", "upscalingMode", "version")
        ),
        "env": [_ENV],
        "envFrom": [_ENV_FROM],
        "resources": _RESOURCES,
        "securityContext": _SECURITY,
        "volumeMounts": None,
    },
    "headGroupSpec": {
        **dict.fromkeys(
            ("enableIngress", "headService", "labels", "rayStartParams", "resources", "serviceType")
        ),
        "template": _TEMPLATE,
    },
    "workerGroupSpecs": [
        {
            **dict.fromkeys(
                (
                    "groupName",
                    "idleTimeoutSeconds",
                    "labels",
                    "maxReplicas",
                    "minReplicas",
                    "numOfHosts",
                    "rayStartParams",
                    "replicas",
                    "resources",
                    "scaleStrategy",
                    "suspend",
                )
            ),
            "template": _TEMPLATE,
        }
    ],
}
_JOB = {
    **dict.fromkeys(
        (
            "activeDeadlineSeconds",
            "backoffLimit",
            "clusterSelector",
            "deletionStrategy",
            "entrypoint",
            "entrypointNumCpus",
            "entrypointNumGpus",
            "entrypointResources",
            "jobId",
            "managedBy",
            "metadata",
            "preRunningDeadlineSeconds",
            "runtimeEnvYAML",
            "shutdownAfterJobFinishes",
            "submissionMode",
            "suspend",
            "ttlSecondsAfterFinished",
        )
    ),
    "rayClusterSpec": _CLUSTER,
    "submitterConfig": {"backoffLimit": None},
    "submitterPodTemplate": _TEMPLATE,
}
_BATCH_JOB = {
    **dict.fromkeys(
        (
            "activeDeadlineSeconds",
            "backoffLimit",
            "completions",
            "parallelism",
            "ttlSecondsAfterFinished",
        )
    ),
    "template": _TEMPLATE,
}
_CRON = {
    **dict.fromkeys(
        (
            "concurrencyPolicy",
            "failedJobsHistoryLimit",
            "schedule",
            "startingDeadlineSeconds",
            "successfulJobsHistoryLimit",
            "suspend",
            "timeZone",
        )
    ),
    "jobTemplate": {"metadata": _META, "spec": _BATCH_JOB},
}


def _object(**fields: Any) -> dict[str, Any]:
    return {"apiVersion": None, "kind": None, "metadata": _META, **fields}


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "ConfigMap": ("v1", _object(data=None, immutable=None)),
    "CronJob": ("batch/v1", _object(spec=_CRON)),
    "PersistentVolume": ("v1", _object(spec=None)),
    "PersistentVolumeClaim": ("v1", _object(spec=None)),
    "RayCluster": ("ray.io/v1", _object(spec=_CLUSTER)),
    "RayJob": ("ray.io/v1", _object(spec=_JOB)),
    "Role": (
        "rbac.authorization.k8s.io/v1",
        _object(rules=[dict.fromkeys(("apiGroups", "resourceNames", "resources", "verbs"))]),
    ),
    "RoleBinding": (
        "rbac.authorization.k8s.io/v1",
        _object(
            roleRef=dict.fromkeys(("apiGroup", "kind", "name")),
            subjects=[dict.fromkeys(("apiGroup", "kind", "name", "namespace"))],
        ),
    ),
    "Secret": ("v1", _object(data=None, immutable=None, stringData=None, type=None)),
    "ServiceAccount": (
        "v1",
        _object(automountServiceAccountToken=None, imagePullSecrets=[{"name": None}]),
    ),
}
"""Each kind's API version and fields."""

REQUIRED: dict[str, tuple[tuple[str, ...], ...]] = {
    "ConfigMap": (("data",),),
    "CronJob": (("spec", "schedule"), ("spec", "jobTemplate")),
    "PersistentVolume": (("spec",),),
    "PersistentVolumeClaim": (("spec",),),
    "RayCluster": (
        ("spec", "headGroupSpec", "template"),
        ("spec", "headGroupSpec", "rayStartParams"),
    ),
    "RayJob": (("spec", "entrypoint"),),
    "Role": (("rules",),),
    "RoleBinding": (("roleRef",), ("subjects",)),
    "Secret": (),
    "ServiceAccount": (),
}
