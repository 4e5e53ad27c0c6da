"""ComfyUI's editor, open in a browser: what a user does there, and what there is to see."""

from __future__ import annotations

import base64
import contextlib
import json
import urllib.request
from pathlib import Path
from typing import Any

from rapiddraw.benchmarks.browser import Page

_READY = "window.app && app.vueAppReady && app.extensionManager && app.extensionManager.command && document.querySelector('canvas') && true"
_CARD = "[data-testid='template-workflow-%s']"
_DIALOG = "[...document.querySelectorAll('[role=dialog], .p-dialog')].find((e) => e.checkVisibility())"
_BROWSER = "[data-testid='template-workflows-content']"
_MORE_CARDS = """(async () => {
    const cards = [...document.querySelectorAll(`[data-testid^='template-workflow-']`)];
    for (const card of [cards.at(0), cards.at(-1)]) {
        card?.scrollIntoView();
        await new Promise((done) => setTimeout(done, 200));
    }
})()"""
"""The editor adds cards when the end of the list comes into view. An end that was in view before the cards arrived must leave it first."""


class Editor:
    """The editor of the ComfyUI at `port`, in a Chromium of its own."""

    def __init__(self, executable: str, port: int, profile: Path) -> None:
        self.port, self.page = port, Page(executable, profile)

    def open(self, new_user: bool = False) -> None:
        """Load it in a tab that knows nothing, small texts shown too: with an empty canvas; or, for a new user, with the template browser,
        which ComfyUI then shows by itself. What the user did before stands on the server, so it is set there first."""
        settings = {
            "Comfy.TutorialCompleted": not new_user,
            "Comfy.OnboardingCoachmarks.Seen": [] if new_user else ["appMode", "firstRun"],  # its tours lie over what they explain
            "LiteGraph.Canvas.MinFontSizeForLOD": 0,
            "Comfy.Minimap.Visible": False,
        }
        request = urllib.request.Request(  # noqa: S310 - our own server
            f"http://127.0.0.1:{self.port}/settings", json.dumps(settings).encode(), {"Content-Type": "application/json"}
        )
        self.page.fresh()  # first: ComfyUI reads and writes all settings at once, so one that the old tab still sends would undo ours
        urllib.request.urlopen(request, timeout=60).close()  # noqa: S310
        self.page.go(f"http://127.0.0.1:{self.port}/")
        self.page.wait(_READY)
        if new_user:
            self.page.wait(f"!!document.querySelector(`{_BROWSER}`)")
        else:
            self.page.wait("app.graph.nodes.length > 0")  # ComfyUI's own first graph, loaded last of all
            self.clear()

    def start_over(self) -> None:
        """An empty canvas and no problems noted: in the tab that is open, where nothing but a graph stands in it, else in a new one. A
        tenth of the time of :meth:`open`."""
        if self._idle():
            self.clear()
            self.page.problems.clear()
        else:
            self.open()

    def _idle(self) -> bool:
        """Whether the editor is open, with no dialogue over it."""
        with contextlib.suppress(RuntimeError):
            return self.page.run(f"return !!({_READY}) && !{_DIALOG}")
        return False

    def problems(self) -> list[str]:
        """Console errors and exceptions of ours since it was opened.

        The editor complains of matters of its own (settings files that a user does not have, listeners that it forgot), other ones in
        each version. A message is ours where it names us: what we serve lies under /extensions/rapiddraw and
        /workflow_templates/rapiddraw, our nodes are RapidDraw..., and both stand in an error's text, its address or its stack. One that
        our graphs cause inside the editor without a name leaves a node or a value out, and that is compared by itself.
        """
        return [problem for problem in self.page.problems if "rapiddraw" in problem.lower()]

    def browse(self, group: str) -> None:
        """Open the template browser where it is not open yet, and there one entry of the list on the left."""
        if not self.page.run(f"return !!document.querySelector(`{_BROWSER}`)"):
            self.page.run("await app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        self._click("[...document.querySelectorAll('span')].find((e) => e.textContent.trim() === args[0])", group)

    def search(self, words: str) -> None:
        """Look for a template in the template browser, which is open."""
        box = "[...document.querySelectorAll('[role=dialog] input')].find((e) => /search/i.test(e.placeholder) && e.checkVisibility())"
        self.page.wait(f"!!{box}")
        self.page.run(f"{box}.focus()")
        self.page.type(words)

    def choose(self, name: str, graph: dict[str, Any]) -> None:
        """Open one template of those listed, scrolling to the end of those shown until it is there, and wait until its graph is, too."""
        card = f"document.querySelector(`{_CARD % name}`)"
        self.page.wait(f"!!{card} || (await {_MORE_CARDS}, false)")
        self._click(card)
        self.page.wait(f"!document.querySelector(`{_BROWSER}`)")
        self.wait_for(graph)

    def wait_for(self, graph: dict[str, Any]) -> None:
        """Wait until the canvas shows this graph, given in the editor's format: the same nodes under the same numbers."""
        wanted = sorted(f"{node['id']} {node['type']}" for node in graph["nodes"])
        self.page.wait("JSON.stringify(app.graph.nodes.map((n) => `${n.id} ${n.type}`).sort()) === JSON.stringify(args[0])", wanted)

    def clear(self) -> None:
        """An empty canvas."""
        self.page.run("await app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
        self.page.wait("app.graph.nodes.length === 0")

    def drop(self, name: str, picture: bytes, graph: dict[str, Any]) -> None:
        """Drop a PNG file onto the canvas, and wait for the graph in it."""
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
        self.wait_for(graph)

    def add(self, title: str, x: float, y: float) -> None:
        """Double-click on the empty canvas, type a node's name, press Enter; where the node then hangs on the mouse, click to let it go."""
        many = self.page.run("return app.graph.nodes.length")
        self.page.click(x, y, times=2)
        self.page.wait("document.activeElement && document.activeElement.tagName === 'INPUT'")
        self.page.type(title)
        self.page.wait("[...document.querySelectorAll('[role=option]')].some((e) => e.textContent.includes(args[0]))", title)
        self.page.press("Enter", 13)
        self.page.wait("app.graph.nodes.length === args[0] && app.graph.nodes.some((n) => n.title === args[1])", many + 1, title)
        self.page.wait("document.elementFromPoint(...args).tagName === 'CANVAS'", x, y)  # the search has closed
        self.page.click(x, y)
        self.page.wait("!app.graph.nodes.some((n) => n.flags && n.flags.ghost)")

    def found_nodes(self, words: str) -> list[str]:
        """Type `words` into the search for nodes, which is opened where it is not, and return the texts of what it lists, best first."""
        options = "[...document.querySelectorAll('[role=option]')].filter((e) => e.checkVisibility()).map((e) => e.innerText)"
        box = "document.activeElement?.tagName === 'INPUT' && document.activeElement"
        if not self.page.run(f"return !!({box})"):
            self.page.click(400, 300, times=2)
            self.page.wait(f"!!({box})")
        self.page.run(f"({box}).select()")
        self.page.type(words)
        self.page.wait(f"({box}).value === args[0]", words)
        settled = f"""(async () => {{
            const before = JSON.stringify({options});
            await new Promise((done) => setTimeout(done, 400));
            return before === JSON.stringify({options}) && before !== '[]';
        }})()"""
        self.page.wait(f"await {settled}")
        return self.page.run(f"return {options}")

    def link(self, start: str, output: str, end: str, into: str) -> None:
        """Draw a line from an output of the node with one title to an input of that with another, by the mouse, with no toolbox above a
        selected node in its way."""
        places = self.page.run(
            """
            app.canvas.deselectAll();
            const [start, output, end, into] = args, ds = app.canvas.ds, box = app.canvas.canvas.getBoundingClientRect();
            const seen = ([x, y]) => [box.x + (x + ds.offset[0]) * ds.scale, box.y + (y + ds.offset[1]) * ds.scale];
            const of = (title) => app.graph.nodes.find((n) => n.title === title), from = of(start), to = of(end);
            const ends = [from.getConnectionPos(false, from.findOutputSlot(output)), to.getConnectionPos(true, to.findInputSlot(into))];
            return ends.map(seen);
            """,
            start, output, end, into,
        )  # fmt: skip
        self.page.wait("args.every(([x, y]) => document.elementFromPoint(x, y).tagName === 'CANVAS')", *places)
        self.page.drag(*places)
        linked = """(() => { const to = app.graph.nodes.find((n) => n.title === args[1]), id = to.inputs[to.findInputSlot(args[2])].link;
            return id != null && app.graph.getNodeById(app.graph.links.get(id).origin_id).title === args[0]; })()"""
        self.page.wait(linked, start, end, into, seconds=30)

    def set(self, node_type: str, **widgets: Any) -> None:
        """Give a node's widgets values."""
        self.page.run(
            """
            const node = app.graph.nodes.find((n) => n.type === args[0]);
            for (const [name, value] of Object.entries(args[1])) node.widgets.find((w) => w.name === name).value = value;
            """,
            node_type, widgets,
        )  # fmt: skip

    def fit(self) -> None:
        """Let the graph fill what is seen of the canvas."""
        self.page.run(
            """
            const [left, top, right, bottom] = app.graph.nodes.map((n) => n.getBounding()).reduce(
                ([l, t, r, b], [x, y, w, h]) => [Math.min(l, x), Math.min(t, y), Math.max(r, x + w), Math.max(b, y + h)],
                [Infinity, Infinity, -Infinity, -Infinity]);
            const bars = [90, 110], view = [innerWidth - 120, innerHeight - 140], ds = app.canvas.ds;
            ds.scale = Math.min(view[0] / (right - left), view[1] / (bottom - top), 1);
            ds.offset = [bars[0] / ds.scale - left, bars[1] / ds.scale - top];
            app.canvas.setDirty(true, true);
            """
        )

    def look(self, nodes_2: bool) -> bool | None:
        """Draw nodes as Nodes 2.0 does, or on the classic canvas. Returns how they were before; None where this editor has the classic
        canvas alone."""
        setting = "Comfy.VueNodes.Enabled"
        if not self.page.run(
            "return !!app.ui.settings.settingsLookup?.[args[0]] || args[0] in app.ui.settings.settingsParamLookup", setting
        ):
            return None
        before = self.page.run("return !!app.extensionManager.setting.get(args[0])", setting)
        self.page.run("await app.extensionManager.setting.set(args[0], args[1])", setting, nodes_2)
        return before

    def boxes(self, nodes_2: bool) -> dict[str, list[float]]:
        """Where each node stands: x, y, width, height in the graph's pixels, title included, as the editor draws it."""
        if not nodes_2:
            return self.page.run("return Object.fromEntries(app.graph.nodes.map((n) => [String(n.id), [...n.getBounding()]]))")
        self.page.wait("document.querySelectorAll('[data-node-id]').length >= app.graph.nodes.length")
        self.page.run("await new Promise((done) => setTimeout(done, 1500))")  # pictures and texts settle
        return self.page.run(
            """
            const scale = app.canvas.ds.scale, found = {};
            for (const element of document.querySelectorAll('[data-node-id]')) {
                const box = element.getBoundingClientRect();
                found[element.dataset.nodeId] = [box.x, box.y, box.width, box.height].map((side) => side / scale);
            }
            return found;
            """
        )

    def dismiss(self) -> None:
        """Close a notice over the canvas as a user does, with Escape, where one comes up."""
        with contextlib.suppress(TimeoutError):
            self.page.wait(f"!!{_DIALOG}", seconds=15)
        while self.page.run(f"return !!{_DIALOG}"):
            self.page.press("Escape", 27)
            self.page.run("await new Promise((done) => setTimeout(done, 500))")

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

    def app(self) -> list[str]:
        """Wait for App Mode, in which a form stands for the graph. Returns the names of the form's inputs, in order."""
        self.page.wait("document.querySelector(`[data-testid='linear-run-button']`)?.checkVisibility()")
        names = "app.graph.extra.linearData.inputs.map((input) => input[1])"
        form = "document.querySelector(`[data-testid='linear-widgets']`).innerText.split('\\n')"
        self.page.wait(f"{names}.every((name) => {form}.includes(name))")
        return self.page.run(f"return {form}.filter((line) => {names}.includes(line))")

    def run_app(self, seconds: float) -> list[int]:
        """Press the button of App Mode, and wait for the picture. Returns its width and height in pixels."""
        place = "document.querySelector(`[data-testid='linear-run-button']`)"
        self._click(f"[{place}, ...{place}.querySelectorAll('button')].findLast((e) => e.matches('button'))")
        shown = "[...document.querySelectorAll(`img[src*='type=output']`)].find((i) => i.complete && i.naturalWidth)"
        self.page.wait(f"!!{shown}", seconds=seconds)
        return self.page.run(f"const picture = {shown}; return [picture.naturalWidth, picture.naturalHeight]")

    def press_run(self) -> None:
        """The blue button."""
        self._click("document.querySelector(\"[data-testid='queue-button'] button, button[data-testid='queue-button']\")")

    def show_previews(self) -> None:
        """Show what the sampler has drawn so far on its node, where this editor can be asked for it."""
        with contextlib.suppress(RuntimeError):
            self.page.run("await app.extensionManager.setting.set('Comfy.Execution.PreviewMethod', 'latent2rgb')")

    def hold_messages(self) -> None:
        """Keep back what the server tells the page from now on. :meth:`next_message` hands it on."""
        self.page.run(
            """
            window.held = [];
            window.runIsOver = false;
            const hold = (event) => { if (event.isTrusted) { event.stopImmediatePropagation(); held.push(event.data); } };
            app.api.socket.addEventListener('message', hold, true);  // a capturing listener comes before the editor's own
            """
        )

    def next_message(self, seconds: float = 5) -> bool:
        """Hand on what was kept back, up to the next preview or the next node, and let the page draw. Returns False where none comes."""
        shown = "(data) => typeof data !== 'string' || data.includes('\"type\": \"execut')"
        try:
            self.page.wait(f"held.some({shown})", seconds=seconds)
        except TimeoutError:
            return False
        self.page.run(
            f"""
            for (const data of held.splice(0, held.findIndex({shown}) + 1)) {{
                app.api.socket.dispatchEvent(new MessageEvent('message', {{ data }}));
                window.runIsOver ||= /"type": "executing".*"node": null/.test(data);
            }}
            for (const frame of [1, 2, 3]) await new Promise((done) => requestAnimationFrame(done));
            """
        )
        return True

    def run_is_shown(self, node_type: str) -> bool:
        """Whether the messages of a run are handed on to the last, and a node of that type shows a picture."""
        pictures = "app.graph.nodes.filter((n) => n.type === args[0]).flatMap((n) => n.imgs ?? [])"
        return bool(self.page.run(f"return runIsOver && {pictures}.some((i) => i.complete && i.naturalWidth > 0)", node_type))

    def picture_on(self, node_type: str, seconds: float) -> list[int]:
        """Wait until a node of that type shows a picture. Returns its width and height in pixels."""
        shown = "app.graph.nodes.filter((n) => n.type === args[0]).flatMap((n) => n.imgs ?? []).find((i) => i.complete && i.naturalWidth)"
        self.page.wait(f"!!{shown}", node_type, seconds=seconds)
        return self.page.run(f"const picture = {shown}; return [picture.naturalWidth, picture.naturalHeight]", node_type)

    def _click(self, element: str, *arguments: Any) -> None:
        """Click in an element's middle, once it is there, stands still and nothing lies over it. Pictures that arrive move what is below
        them, so the place is looked at and clicked in one go."""
        clicked = f"""
            (async () => {{
                const element = {element};
                if (!element) return false;
                const place = () => {{ const box = element.getBoundingClientRect(); return [box.x, box.y, box.width, box.height]; }};
                element.scrollIntoView({{ block: 'center' }});
                const before = place();
                await new Promise((done) => setTimeout(done, 500));
                const [x, y, width, height] = place();
                const top = document.elementFromPoint(x + width / 2, y + height / 2);
                if (String(before) !== String([x, y, width, height]) || !top || !element.contains(top)) return false;
                top.click();
                return true;
            }})()
        """
        self.page.wait(f"await {clicked}", *arguments)
