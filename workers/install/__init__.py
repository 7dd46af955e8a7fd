"""`fleet install`: this host keeps a part of the fleet running, by systemd or launchd."""
