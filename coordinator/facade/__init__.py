"""RunManager in parts, each named by what its methods are about. `manager` puts them together."""
