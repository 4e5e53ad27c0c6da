"""ComfyUI's editor, open in a browser: what a user does there, and what there is to see."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

from .browser import Page

# What the editor always looks for and a user without settings of their own does not have.
_NOT_OURS = re.compile(r"status of 404 .*/(user\.css|favicon\.ico|api/userdata\b.*)\)$")
_READY = "window.app && app.vueAppReady && app.extensionManager && app.extensionManager.command && document.querySelector('canvas') && true"
_CARD = "[data-testid='template-workflow-%s']"
_BROWSER = "[data-testid='template-workflows-content']"


class Editor:
    """The editor of the ComfyUI at `port`, in a Chromium of its own."""

    def __init__(self, executable: str, port: int, profile: Path) -> None:
        self.port, self.page = port, Page(executable, profile)

    def open(self) -> None:
        """Load it as a new user sees it, small texts shown too."""
        self.page.fresh()
        self.page.go(f"http://127.0.0.1:{self.port}/")
        self.page.wait(_READY)
        self.page.run("await app.extensionManager.setting.set('LiteGraph.Canvas.MinFontSizeForLOD', 0)")

    def problems(self) -> list[str]:
        """Console errors and exceptions since it was opened."""
        return [problem for problem in self.page.problems if not _NOT_OURS.search(problem)]

    def browse(self, pack: str) -> None:
        """Open the template browser, and there what `pack` has."""
        if not self.page.run(f"return !!document.querySelector(`{_BROWSER}`)"):  # new users are shown it unasked
            self.page.run("await app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        self._click("[...document.querySelectorAll('span')].find((e) => e.textContent.trim() === args[0])", pack)

    def choose(self, name: str) -> None:
        """Open one template of those shown."""
        self._click(f"document.querySelector(`{_CARD % name}`)")
        self.page.wait(f"!document.querySelector(`{_BROWSER}`)")

    def clear(self) -> None:
        """An empty canvas."""
        self.page.run("await app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
        self.page.wait("app.graph.nodes.length === 0")

    def drop(self, name: str, picture: bytes) -> None:
        """Drop a PNG file onto an empty canvas, and wait for the graph in it."""
        self.page.run(
            """
            const bytes = Uint8Array.from(atob(args[1]), (c) => c.charCodeAt(0));
            const files = new DataTransfer();
            files.items.add(new File([bytes], args[0], { type: 'image/png' }));
            const how = { dataTransfer: files, bubbles: true, cancelable: true, clientX: 800, clientY: 500 };
            for (const kind of ['dragenter', 'dragover', 'drop'])
                document.querySelector('canvas').dispatchEvent(new DragEvent(kind, how));
            """,
            name,
            base64.b64encode(picture).decode(),
        )
        self.page.wait("app.graph.nodes.length > 0")

    def fit(self) -> None:
        """Let the graph fill what is seen of the canvas."""
        self.page.run(
            """
            await app.extensionManager.setting.set('Comfy.Minimap.Visible', false);
            const [left, top, right, bottom] = app.graph.nodes.map((n) => n.getBounding()).reduce(
                ([l, t, r, b], [x, y, w, h]) => [Math.min(l, x), Math.min(t, y), Math.max(r, x + w), Math.max(b, y + h)],
                [Infinity, Infinity, -Infinity, -Infinity]);
            const bars = [90, 110], view = [innerWidth - 120, innerHeight - 140], ds = app.canvas.ds;
            ds.scale = Math.min(view[0] / (right - left), view[1] / (bottom - top), 1);
            ds.offset = [bars[0] / ds.scale - left, bars[1] / ds.scale - top];
            app.canvas.setDirty(true, true);
            """
        )

    def missing(self) -> list[str]:
        """The nodes of the graph that the editor does not know, and what it says in a dialogue over the canvas."""
        return self.page.run(
            """
            const unknown = app.graph.nodes.map((n) => n.type).filter((t) => !(t in LiteGraph.registered_node_types));
            const dialogs = [...document.querySelectorAll('[role=dialog], .p-dialog')].filter((e) => e.checkVisibility());
            return [...unknown, ...dialogs.map((e) => e.textContent.trim().slice(0, 300))];
            """
        )

    def prompt(self) -> dict[str, Any]:
        """The graph in API format, by the editor's own conversion. Inputs that only the editor has (the text box in Preview as Text) are
        left out: the server does not know them."""
        return self.page.run(
            """
            const { output } = await app.graphToPrompt();
            for (const node of Object.values(output)) {
                const { required = {}, optional = {} } = LiteGraph.registered_node_types[node.class_type].nodeData.input;
                for (const name of Object.keys(node.inputs)) if (!(name in required) && !(name in optional)) delete node.inputs[name];
            }
            return output;
            """
        )

    def press_run(self) -> None:
        """The blue button."""
        self._click("document.querySelector(\"[data-testid='queue-button'] button, button[data-testid='queue-button']\")")

    def picture_on(self, node_type: str, seconds: float) -> list[int]:
        """Wait until a node of that type shows a picture. Returns its width and height in pixels."""
        shown = "app.graph.nodes.filter((n) => n.type === args[0]).flatMap((n) => n.imgs ?? []).find((i) => i.complete && i.naturalWidth)"
        self.page.wait(f"!!{shown}", node_type, seconds=seconds)
        return self.page.run(f"const picture = {shown}; return [picture.naturalWidth, picture.naturalHeight]", node_type)

    def _click(self, element: str, *arguments: Any) -> None:
        """Wait for an element, and click in its middle."""
        self.page.wait(f"!!{element}", *arguments, seconds=60)
        script = f"""
            const element = {element};
            element.scrollIntoView({{ block: 'center' }});
            await new Promise((done) => setTimeout(done, 300));
            const box = element.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        """
        self.page.click(*self.page.run(script, *arguments))
