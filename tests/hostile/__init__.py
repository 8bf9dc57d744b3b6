"""Hostile requests against a real server: `make hostile`.

Each is made from the seed and its number alone, and goes out as the bytes that it is: what a client library
would put right is what is tried. No answer may be a failure of the server's, nothing may reach its log as
one, and afterwards it works as before, in the same processes.
"""
