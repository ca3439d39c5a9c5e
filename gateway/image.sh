#!/bin/bash
# image.sh -o OUT.tar -r NAME:TAG [-u USER] -e ENTRYPOINT ROOT: packs the folder ROOT into a one-layer
# container image. The tar is an OCI layout (ctr, podman, skopeo) and a docker archive (docker load,
# kind load image-archive, k3d image import) at once. Needs neither a daemon nor a registry, and
# the same ROOT gives the same bytes.
set -euo pipefail
out='' ref='' user='' entrypoint=''
while getopts o:r:u:e: option; do
  case $option in
    o) out=$OPTARG ;; r) ref=$OPTARG ;; u) user=$OPTARG ;; e) entrypoint=$OPTARG ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
if [ -z "$out" ] || [ -z "$ref" ] || [ -z "$entrypoint" ] || [ $# != 1 ]; then
  echo "usage: image.sh -o OUT.tar -r NAME:TAG [-u USER] -e ENTRYPOINT ROOT" >&2
  exit 2
fi
case $(uname -m) in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; *) arch=$(uname -m) ;; esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
blobs=$work/image/blobs/sha256
mkdir -p "$blobs"
pack() { tar --format=gnu --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner "$@"; }
# store: files standard input under its digest, and prints the digest.
store() {
  local digest
  cat >"$work/blob"
  digest=$(sha256sum "$work/blob" | cut -d' ' -f1)
  mv "$work/blob" "$blobs/$digest"
  echo "$digest"
}
size() { stat -c %s "$blobs/$1"; }

layer=$(pack -C "$1" --mode='u+rwX,go=rX' --transform='s,^\./,,' -c . | store)
config=$(store <<J
{"architecture":"$arch","os":"linux","created":"1970-01-01T00:00:00Z","config":{"User":"$user","Entrypoint":["$entrypoint"],"Env":["PATH=/bin:/usr/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:$layer"]}}
J
)
manifest=$(store <<J
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:$config","size":$(size "$config")},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:$layer","size":$(size "$layer")}]}
J
)
# containerd takes the name as it stands, and looks for docker.io/NAME when a pod says NAME.
case ${ref%%/*} in *.* | *:* | localhost) full_name=$ref ;; *) full_name=docker.io/$ref ;; esac
cd "$work/image"
echo '{"imageLayoutVersion":"1.0.0"}' >oci-layout
cat >index.json <<J
{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:$manifest","size":$(size "$manifest"),"platform":{"architecture":"$arch","os":"linux"},"annotations":{"io.containerd.image.name":"$full_name","org.opencontainers.image.ref.name":"$ref"}}]}
J
echo "[{\"Config\":\"blobs/sha256/$config\",\"RepoTags\":[\"$ref\"],\"Layers\":[\"blobs/sha256/$layer\"]}]" >manifest.json
cd - >/dev/null
pack --mode='u=rwX,go=rX' -C "$work/image" -cf "$work/out.tar" oci-layout index.json manifest.json blobs
mkdir -p "$(dirname "$out")"
mv "$work/out.tar" "$out"
echo "$out $ref sha256:$manifest $(stat -c %s "$out") bytes"
