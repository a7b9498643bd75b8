"""Looking into images and layers: pure data out, nothing changed, nothing printed."""
