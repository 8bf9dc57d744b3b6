"""The HTTP contract: models of request bodies, response documents, and their JSON."""
