#!/bin/bash
# What {{name}} does with one call: the body is stdin, stdout is the response, stderr the log, exit code 0
# success.
set -euo pipefail
read -r name || true
echo "Hello, ${name:-world}!"
