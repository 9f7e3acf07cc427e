"""The fields of the Kubernetes (v1.34) and KubeRay (v1.6, ray.io/v1) objects that may be met here.

A name's fields: a mapping for fields within, a list of one for a list of such, `str`, `int` or
`bool` for a value of this type, None for what is not looked into. In `TEXTS` every key goes.
"""

from typing import Any

TEXTS = {"*": str}
"""A mapping with free keys, whose values are texts."""


def _of(*, text: str = "", whole: str = "", flag: str = "", other: str = "") -> dict[str, Any]:
    """Fields by type, each a list of names."""
    return {
        **dict.fromkeys(text.split(), str),
        **dict.fromkeys(whole.split(), int),
        **dict.fromkeys(flag.split(), bool),
        **dict.fromkeys(other.split()),
    }


_META = {
    **_of(
        text="name namespace generateName resourceVersion uid",
        whole="generation",
        other="creationTimestamp finalizers managedFields ownerReferences selfLink",
    ),
    "annotations": TEXTS,
    "labels": TEXTS,
}
_KEY = _of(text="key name", flag="optional")
_ENV = {
    **_of(text="name value"),
    "valueFrom": {
        "configMapKeyRef": _KEY,
        "fieldRef": _of(text="apiVersion fieldPath"),
        "fileKeyRef": _of(text="key path volumeName", flag="optional"),
        "resourceFieldRef": _of(text="containerName resource", other="divisor"),
        "secretKeyRef": _KEY,
    },
}
_ENV_FROM = {
    "configMapRef": _of(text="name", flag="optional"),
    "prefix": str,
    "secretRef": _of(text="name", flag="optional"),
}
_RESOURCES = _of(other="claims limits requests")
_SECURITY = _of(
    whole="runAsGroup runAsUser",
    flag="allowPrivilegeEscalation privileged readOnlyRootFilesystem runAsNonRoot",
    text="procMount",
    other="appArmorProfile capabilities seLinuxOptions seccompProfile windowsOptions",
)
_POD_SECURITY = _of(
    text="fsGroupChangePolicy seLinuxChangePolicy supplementalGroupsPolicy",
    whole="fsGroup runAsGroup runAsUser",
    flag="runAsNonRoot",
    other="appArmorProfile seLinuxOptions seccompProfile supplementalGroups sysctls windowsOptions",
)
_MOUNT = _of(
    text="mountPath mountPropagation name recursiveReadOnly subPath subPathExpr", flag="readOnly"
)
_CONTAINER = {
    **_of(
        text="image imagePullPolicy name restartPolicy terminationMessagePath"
        " terminationMessagePolicy workingDir",
        flag="stdin stdinOnce tty",
        other="lifecycle livenessProbe readinessProbe resizePolicy restartPolicyRules startupProbe"
        " volumeDevices",
    ),
    "args": [str],
    "command": [str],
    "env": [_ENV],
    "envFrom": [_ENV_FROM],
    "ports": [_of(text="hostIP name protocol", whole="containerPort hostPort")],
    "resources": _RESOURCES,
    "securityContext": _SECURITY,
    "volumeMounts": [_MOUNT],
}
_VOLUME = {
    **_of(
        text="name",
        other="awsElasticBlockStore azureDisk azureFile cephfs cinder downwardAPI fc flexVolume"
        " flocker gcePersistentDisk gitRepo glusterfs image iscsi photonPersistentDisk"
        " portworxVolume quobyte rbd scaleIO storageos vsphereVolume",
    ),
    "configMap": _of(text="name", whole="defaultMode", flag="optional", other="items"),
    "csi": {
        **_of(text="driver fsType", flag="readOnly", other="nodePublishSecretRef"),
        "volumeAttributes": TEXTS,
    },
    "emptyDir": _of(text="medium", other="sizeLimit"),
    "ephemeral": {"volumeClaimTemplate": {"metadata": _META, "spec": None}},
    "hostPath": _of(text="path type"),
    "nfs": _of(text="path server", flag="readOnly"),
    "persistentVolumeClaim": _of(text="claimName", flag="readOnly"),
    "projected": _of(whole="defaultMode", other="sources"),
    "secret": _of(text="secretName", whole="defaultMode", flag="optional", other="items"),
}
POD = {
    **_of(
        text="dnsPolicy hostname hostnameOverride nodeName preemptionPolicy priorityClassName"
        " restartPolicy runtimeClassName schedulerName serviceAccount serviceAccountName subdomain",
        whole="activeDeadlineSeconds priority terminationGracePeriodSeconds",
        flag="automountServiceAccountToken enableServiceLinks hostIPC hostNetwork hostPID hostUsers"
        " setHostnameAsFQDN shareProcessNamespace",
        other="affinity dnsConfig ephemeralContainers hostAliases os overhead readinessGates"
        " resourceClaims resources schedulingGates",
    ),
    "containers": [_CONTAINER],
    "imagePullSecrets": [_of(text="name")],
    "initContainers": [_CONTAINER],
    "nodeSelector": TEXTS,
    "securityContext": _POD_SECURITY,
    "tolerations": [_of(text="effect key operator value", whole="tolerationSeconds")],
    "topologySpreadConstraints": [
        _of(
            text="nodeAffinityPolicy nodeTaintsPolicy topologyKey whenUnsatisfiable",
            whole="maxSkew minDomains",
            other="labelSelector matchLabelKeys",
        )
    ],
    "volumes": [_VOLUME],
}
_TEMPLATE = {"metadata": _META, "spec": POD}
WORKERS = {
    **_of(
        text="groupName",
        whole="idleTimeoutSeconds maxReplicas minReplicas numOfHosts replicas",
        flag="suspend",
        other="scaleStrategy",
    ),
    "labels": TEXTS,
    "rayStartParams": TEXTS,
    "resources": TEXTS,
    "template": _TEMPLATE,
}
_CLUSTER = {
    **_of(
        text="managedBy rayVersion",
        flag="enableInTreeAutoscaling suspend",
        other="gcsFaultToleranceOptions upgradeStrategy",
    ),
    "authOptions": _of(text="mode secretName", flag="enableK8sTokenAuth"),
    "autoscalerOptions": {
        **_of(text="image imagePullPolicy upscalingMode version", whole="idleTimeoutSeconds"),
        "env": [_ENV],
        "envFrom": [_ENV_FROM],
        "resources": _RESOURCES,
        "securityContext": _SECURITY,
        "volumeMounts": [_MOUNT],
    },
    "headGroupSpec": {
        **_of(text="serviceType", flag="enableIngress", other="headService"),
        "labels": TEXTS,
        "rayStartParams": TEXTS,
        "resources": TEXTS,
        "template": _TEMPLATE,
    },
    "headServiceAnnotations": TEXTS,
    "workerGroupSpecs": [WORKERS],
}
_JOB = {
    **_of(
        text="entrypoint entrypointResources jobId managedBy runtimeEnvYAML submissionMode",
        whole="activeDeadlineSeconds backoffLimit preRunningDeadlineSeconds"
        " ttlSecondsAfterFinished",
        flag="shutdownAfterJobFinishes suspend",
        other="deletionStrategy entrypointNumCpus entrypointNumGpus",
    ),
    "clusterSelector": TEXTS,
    "metadata": TEXTS,
    "rayClusterSpec": _CLUSTER,
    "submitterConfig": _of(whole="backoffLimit"),
    "submitterPodTemplate": _TEMPLATE,
}
_SERVICE = {
    **_of(
        text="managedBy serveConfigV2",
        whole="deploymentUnhealthySecondThreshold rayClusterDeletionDelaySeconds"
        " serviceUnhealthySecondThreshold",
        flag="excludeHeadPodFromServeSvc suspend",
        other="serveService upgradeStrategy",
    ),
    "rayClusterConfig": _CLUSTER,
}
_BATCH_JOB = {
    **_of(
        text="completionMode managedBy podReplacementPolicy",
        whole="activeDeadlineSeconds backoffLimit backoffLimitPerIndex completions maxFailedIndexes"
        " parallelism ttlSecondsAfterFinished",
        flag="manualSelector suspend",
        other="podFailurePolicy selector successPolicy",
    ),
    "template": _TEMPLATE,
}
_CRON = {
    **_of(
        text="concurrencyPolicy schedule timeZone",
        whole="failedJobsHistoryLimit startingDeadlineSeconds successfulJobsHistoryLimit",
        flag="suspend",
    ),
    "jobTemplate": {"metadata": _META, "spec": _BATCH_JOB},
}


def _object(**fields: Any) -> dict[str, Any]:
    return {"apiVersion": str, "kind": str, "metadata": _META, "status": None, **fields}


_RBAC = "rbac.authorization.k8s.io/v1"
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "ConfigMap": ("v1", _object(binaryData=TEXTS, data=None, immutable=bool)),
    "CronJob": ("batch/v1", _object(spec=_CRON)),
    "Job": ("batch/v1", _object(spec=_BATCH_JOB)),
    "Namespace": ("v1", _object(spec=None)),
    "NetworkPolicy": ("networking.k8s.io/v1", _object(spec=None)),
    "PersistentVolume": ("v1", _object(spec=None)),
    "PersistentVolumeClaim": ("v1", _object(spec=None)),
    "RayCluster": ("ray.io/v1", _object(spec=_CLUSTER)),
    "RayCronJob": ("ray.io/v1", _object(spec=None)),
    "RayJob": ("ray.io/v1", _object(spec=_JOB)),
    "RayService": ("ray.io/v1", _object(spec=_SERVICE)),
    "Role": (_RBAC, _object(rules=[_of(other="apiGroups resourceNames resources verbs")])),
    "RoleBinding": (
        _RBAC,
        _object(
            roleRef=_of(text="apiGroup kind name"),
            subjects=[_of(text="apiGroup kind name namespace")],
        ),
    ),
    "Secret": ("v1", _object(data=TEXTS, immutable=bool, stringData=TEXTS, type=str)),
    "Service": ("v1", _object(spec=None)),
    "ServiceAccount": (
        "v1",
        _object(
            automountServiceAccountToken=bool, imagePullSecrets=[_of(text="name")], secrets=None
        ),
    ),
}
"""Each kind's API version and fields."""

REQUIRED: dict[str, tuple[tuple[str, ...], ...]] = {
    "ConfigMap": (("data",),),
    "CronJob": (("spec", "schedule"), ("spec", "jobTemplate", "spec", "template", "spec")),
    "Job": (("spec", "template", "spec"),),
    "PersistentVolume": (("spec",),),
    "PersistentVolumeClaim": (("spec",),),
    "RayCluster": (
        ("spec", "headGroupSpec", "template"),
        ("spec", "headGroupSpec", "rayStartParams"),
    ),
    "RayJob": (("spec", "entrypoint"),),
    "RayService": (("spec", "rayClusterConfig", "headGroupSpec", "template"),),
    "Role": (("rules",),),
    "RoleBinding": (("roleRef",), ("subjects",)),
}
