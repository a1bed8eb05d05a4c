#!/bin/sh
# After the package was installed, upgraded or removed. A relay that runs goes on as it was until it is restarted.
set -e
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
fi
