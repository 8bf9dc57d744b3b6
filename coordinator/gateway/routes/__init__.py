"""One router for each noun of the API. `app` puts them together."""
