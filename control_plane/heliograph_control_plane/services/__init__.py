"""The services of the API: each method translates, authorises, validates, and calls the store."""
