"""The nodes of depthflux for ComfyUI; written by `depthflux comfyui install`.

    nodes.py        the three nodes
    declared.py     declaration.json → their widgets
    engines.py      which engine a graph asks for
    served.py       an engine behind `depthflux serve`
    in_process.py   an engine in ComfyUI's own process
    addresses.py    which addresses may be asked, and which of them gets the API key
    exchange.py     one request and its answer
    pictures.py     ComfyUI's IMAGE and files
    running.py      ComfyUI's progress bar and interrupt
    errors.py       what is shown on a node

Needs the standard library and what ComfyUI brings: torch, NumPy, Pillow. depthflux itself is
imported only where an engine in this process is asked for.
"""

from .nodes import DepthfluxDepthMap, DepthfluxEngine, DepthfluxGenerate

NODE_CLASS_MAPPINGS = {
    "DepthfluxGenerate": DepthfluxGenerate,
    "DepthfluxDepthMap": DepthfluxDepthMap,
    "DepthfluxEngine": DepthfluxEngine,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "DepthfluxGenerate": "Depthflux Generate",
    "DepthfluxDepthMap": "Depthflux Depth Map",
    "DepthfluxEngine": "Depthflux Engine",
}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
