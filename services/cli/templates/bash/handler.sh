#!/bin/bash
# Handles one call of {{name}}: stdin is the body, stdout the response, stderr the log. Exit code 0 is
# success.
set -euo pipefail
read -r name || true
echo "Hello, ${name:-world}!"
