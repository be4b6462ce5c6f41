"""The one training loop: state, optimiser, step, devices, checkpoints, logs. It knows Task, never a concrete task."""
