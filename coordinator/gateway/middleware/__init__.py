"""What stands before every route, mounted apps and WebSockets included. Plain ASGI: nothing here buffers
an answer or hides that a client has gone.

From the outside in: `envelope` names, logs and measures a request, also one that fails; `hosts` and
`origins` refuse what a web page sends behind its reader's back; `authentication` finds the caller;
`rate` limits it; `bodies` limits what it sends. A route is reached by what passes all of them.
"""
