"""Decodes audio files and records microphones, as 16 kHz mono float32."""
