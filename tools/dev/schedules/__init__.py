"""The server's scheduler, supervisor and rollout in virtual time, against random schedules of faults: `make schedules`."""
