"""Long work in the background, one job at a time: benchmarks, evaluations, transcriptions, and forecasts of them."""
