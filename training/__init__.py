"""How the bundled demo model was made: synthetic speech, a small Wav2Vec2, and its measured word error rates."""
