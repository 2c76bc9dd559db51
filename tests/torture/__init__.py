"""Each call that can fail in a scenario fails once, with each error that it can give."""
