"""The command ``layerstore``: words to calls, results to lines or JSON."""
