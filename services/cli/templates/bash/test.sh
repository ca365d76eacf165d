#!/bin/bash
# Fails when the handler does not greet whom the body names.
set -euo pipefail
cd "$(dirname "$0")"
answer=$(echo Wherry | ./handler.sh)
[ "$answer" = 'Hello, Wherry!' ] || { echo "not what was expected: $answer" >&2; exit 1; }
echo ok
