"""Tables -> charts, as Vega-Lite specifications. Pure: no streamlit, no store.

A mode keeps its colour on every page.
"""
