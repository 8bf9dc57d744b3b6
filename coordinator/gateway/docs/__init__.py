"""The page at /docs, whole: nothing of it comes from another server.

Swagger UI is the npm package swagger-ui-dist 5.35.0 (Apache-2.0), its files unchanged; a test compares their
hashes.
"""
