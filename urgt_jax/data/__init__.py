"""Where batches come from: scenes, priors, GridMix and the Grain pipeline."""
