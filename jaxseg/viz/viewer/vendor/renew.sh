#!/usr/bin/env bash
# Fetches NiiVue and the licences of all that its bundle holds: bash jaxseg/viz/viewer/vendor/renew.sh [VERSION]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
version=${1:-0.69.0}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

unpacked() { # name and version -> folder
  local file
  file=$(npm pack --silent "$1")
  mkdir "$work/${file%.tgz}"
  tar -xzf "$file" -C "$work/${file%.tgz}" --strip-components=1
  echo "$work/${file%.tgz}"
}

# Written as one block, so that a package that is missing leaves the file of before.
licenses=$work/LICENSES.txt
add() { printf '%s\n\n%s\n\n' "==== $1" "$(tr -d '\r' < "$2")" >> "$licenses"; }
bundle=$(unpacked "@niivue/niivue@$version")
# NiiVue's own package names its licence (BSD-2-Clause) since 0.45 but does not carry the text; 0.44.2 does.
text=$bundle/LICENSE
[ -f "$text" ] || text=$(unpacked @niivue/niivue@0.44.2)/LICENSE
add "@niivue/niivue $version" "$text"
for name in @lukeed/uuid @ungap/structured-clone array-equal fflate gl-matrix nifti-reader-js zarrita @zarrita/storage numcodecs; do
  folder=$(unpacked "$name")
  add "$name" "$(find "$folder" -maxdepth 1 -iname 'licen[sc]e*' | head -n 1)"
done
cp "$bundle/dist/niivue.umd.js" "$here/niivue.umd.js"
cp "$licenses" "$here/LICENSES.txt"
(cd "$here" && sha256sum niivue.umd.js)
