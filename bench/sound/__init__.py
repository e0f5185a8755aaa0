"""Any audio as 16 kHz mono float32, from files and microphones."""
