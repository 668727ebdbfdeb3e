"""The nodes in a real ComfyUI: it is started, asked over its HTTP API and ended again."""
