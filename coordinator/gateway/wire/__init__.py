"""What travels over HTTP: bodies that come in, documents that go out, and the JSON of both."""
