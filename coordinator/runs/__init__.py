"""What happens to a run: admission, its turn, execution, cancellation, settlement."""
