#!/bin/bash
# Tests that the handler greets the name in the body.
set -euo pipefail
cd "$(dirname "$0")"
answer=$(echo Wherry | ./handler.sh)
[ "$answer" = 'Hello, Wherry!' ] || { echo "unexpected answer: $answer" >&2; exit 1; }
echo ok
