"""The life of a run: admission, queueing, execution, cancellation, settlement."""
