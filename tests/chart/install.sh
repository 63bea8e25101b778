#!/usr/bin/env bash
# Fetches what the chart's tests use: helm, kubeconform and helm-unittest from Go modules, Kubernetes' API description
# from its module, promtool and amtool from Debian packages. Everything is kept in the cache, by version.
set -euo pipefail
cd "$(dirname "$0")/../.."
cache="${XDG_CACHE_HOME:-$HOME/.cache}/sensorpipeline"

for tool in helm kubeconform helm-unittest; do
  uv run sensorpipeline-dev tool "$tool" >/dev/null
done

version="v$(sed -n 's/^version = "\([0-9.]*\)".*/\1/p' versions.toml | head -n 1)"
schema="$cache/schemas/kubernetes-$version/swagger.json"
if [ ! -f "$schema" ]; then
  mkdir -p "$(dirname "$schema")"
  directory=$(go mod download -json "k8s.io/kubernetes@$version" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
  cp "$directory/api/openapi-spec/swagger.json" "$schema.part"
  chmod u+w "$schema.part"
  mv "$schema.part" "$schema"
fi

tools="$cache/binaries/debian-prometheus"
if [ ! -d "$tools" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  cd "$work"
  apt-get download -qq prometheus prometheus-alertmanager 2>/dev/null || {
    apt-get update -qq
    apt-get download -qq prometheus prometheus-alertmanager
  }
  for package in ./*.deb; do dpkg -x "$package" root; done
  mkdir -p "$tools.part"
  cp root/usr/bin/promtool root/usr/bin/amtool "$tools.part/"
  mv "$tools.part" "$tools"
fi
