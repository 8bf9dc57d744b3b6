"""The middleware of all routes, including mounted apps and WebSockets. It is plain ASGI: nothing here buffers
a response or hides the disconnect of a client.

From the outside in: `envelope` assigns an id, logs and measures each request, including failed ones; `hosts`
and `origins` refuse cross-site requests of web pages; `authentication` identifies the caller; `rate` limits
the caller's requests; `bodies` limits request bodies.
"""
