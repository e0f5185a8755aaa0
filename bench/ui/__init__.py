"""What the pages share; the only place in bench/ that imports streamlit for drawing."""
