#!/bin/sh
# Submit tonight's seeds to a Ray cluster as a job; options go to sweeps/nightly.py:
#   cluster/nightly/submit.sh --results s3://bucket/results --sweep rotated-mnist
# The dashboard is at RAY_API_SERVER_ADDRESS (http://127.0.0.1:8265, e.g. through `ray dashboard`).
# The job is named after the sweep, the UTC date and a hash of the options, and Ray refuses a name that
# it knows: submitted twice, a night runs once. To finish a night whose job has failed, add a try:
#   NIGHTLY_TRY=2 cluster/nightly/submit.sh …
# Exit status: 0 submitted, or known already; 2 a mistake.
set -eu
# Ray sends the token of ~/.ray/auth_token only if told to.
if [ -z "${RAY_AUTH_MODE:-}" ] && [ -f ~/.ray/auth_token ]; then export RAY_AUTH_MODE=token; fi
cd "$(dirname "$0")/../.."
RAY_API_SERVER_ADDRESS=${RAY_API_SERVER_ADDRESS:-http://127.0.0.1:8265}
export RAY_API_SERVER_ADDRESS
ray=${RAY:-.venv/bin/ray}
night=$(date -u +%F)
mistake() {
    echo "submit.sh: error: $1" >&2
    exit 2
}
sweep= before=
for word; do # --option VALUE or --option=VALUE
    case $word in --*=*) option=${word%%=*} value=${word#*=} ;; *) option=$before value=$word ;; esac
    case $option in
    --sweep) sweep=$value ;;
    --pinned | --results | --data)
        case $value in # the job runs on another machine, and takes nothing but sweeps/ there
        /* | "~"/*) there=yes ;;
        *://*) [ "$option" = --results ] && there=yes || there= ;;
        *) there= ;;
        esac
        [ "$there" ] || mistake "$option '$value' names nothing on the cluster: give a whole path there\
 (or a URI of --results)"
        ;;
    esac
    before=$word
done
[ -n "$sweep" ] || mistake "whose night? add --sweep NAME"
options=$(printf '%s\n' "$@" | cksum | cut -d ' ' -f 1)
job=nightly-$sweep-$night-$options${NIGHTLY_TRY:+-$NIGHTLY_TRY}
known() {
    "$ray" job status "$job" >/dev/null 2>&1 && echo "$job is known already: $ray job logs $job"
}
known && exit 0
# The scripts alone go along: the nodes have lmc_ray installed. Of two that come at once one is refused.
"$ray" job submit --no-wait --submission-id "$job" --working-dir sweeps \
    -- python nightly.py --night "$night" "$@" || known
