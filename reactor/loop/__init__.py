"""The event loop: descriptors, timers, callbacks, threads and signals. It knows nothing of TCP."""
