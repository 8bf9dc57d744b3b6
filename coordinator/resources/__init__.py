"""The attributes of a manager besides the life of a run: `threads`, `runs`, `crons`, `webhooks`,
`client_assistants`, `worker`."""
