#!/bin/bash -eu
#
# Builds the fuzzers of faulttest/fuzz for libFuzzer. It runs in the image of the Dockerfile.

export GOTOOLCHAIN=auto # go.mod may ask for a newer Go than the image has

cd "$SRC/plex/faulttest"
for target in Split Replies; do
	compile_go_fuzzer go.atomizer.io/plex/faulttest/fuzz "$target" "fuzz_${target,,}"
done
