"""What a manager offers besides the life of a run: `threads`, `runs`, `crons`, `webhooks`, `worker`."""
