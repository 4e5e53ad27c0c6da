"""A node that trains the vectors of a knowledge graph (TransE; Rapid Diffusion, section 3.1.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core.knowledge.graph import KnowledgeGraph
    from .sockets import Inputs


class TrainKnowledgeGraph:
    """A graph of plain facts in, the same graph with vectors out."""

    DISPLAY_NAME = "Train Knowledge Graph"
    CATEGORY = "RapidDraw/knowledge"
    SEARCH_ALIASES = ("train kg", "transe", "embed triples", "entity embeddings", "own facts", "ontology")
    DESCRIPTION = (
        "Gives your own facts the vectors that a prompt needs: trains a knowledge graph of triples with TransE (Bordes et al. 2013) and "
        "saves it, in seconds to minutes on a CPU. A stopped run goes on when it is queued again with the same settings. New vectors need "
        "a text encoder that was trained with them, or a projection from Fit Knowledge Projection."
    )
    RETURN_TYPES = ("KNOWLEDGE_GRAPH", "STRING", "IMAGE")
    RETURN_NAMES = ("knowledge", "report", "loss_plot")
    OUTPUT_TOOLTIPS = (
        "The graph with vectors, for Fit Knowledge Projection, Extend Knowledge Graph and KG Text Encode.",
        "How often the right entity comes first when one end of a triple is hidden, and the file's name.",
        "The loss over the steps.",
    )
    FUNCTION = "execute"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        steps_tip = (
            "Training steps of batch_size triples. 1750 suits 3,000 triples (250 times each); larger graphs need more in proportion."
        )
        dim_tip = "Features of each vector, 8 to 4096. More tells more things apart and makes the file larger; 64 suits 500 entities."
        margin_tip = "By how much a true triple must be nearer than a false one. Larger spreads the vectors further apart."
        held_tip = (
            "Share of the triples for an honest score: a second run trains without them and is scored on them. 0 saves that time. The "
            "saved vectors learn from all triples."
        )
        file_tip = "The file to write, in rapiddraw/ of the output folder. A graph of the same name is replaced."
        return {
            "required": {
                "knowledge": (
                    "KNOWLEDGE_GRAPH",
                    {"tooltip": "The facts, from Load Knowledge Graph: your .tsv or .jsonl. Vectors that it has are trained again."},
                ),
                "filename": ("STRING", {"default": "my-kg", "tooltip": file_tip}),
                "steps": ("INT", {"default": 1750, "min": 1, "max": 1000000, "tooltip": steps_tip}),
                "dim": ("INT", {"default": 64, "min": 8, "max": 4096, "tooltip": dim_tip}),
                "batch_size": (
                    "INT",
                    {
                        "default": 512,
                        "min": 1,
                        "max": 65536,
                        "tooltip": "Triples in each step. More is steadier, and each step takes longer.",
                    },
                ),
                "lr": (
                    "FLOAT",
                    {
                        "default": 0.01,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.001,
                        "tooltip": "Learning rate of Adam. Higher learns faster and may never settle.",
                    },
                ),
                "margin": ("FLOAT", {"default": 2.0, "min": 0.01, "max": 100.0, "step": 0.1, "tooltip": margin_tip}),
                "negatives": (
                    "INT",
                    {
                        "default": 25,
                        "min": 1,
                        "max": 1024,
                        "tooltip": "False triples beside each true one. More teaches more in a step that takes longer.",
                    },
                ),
                "held_out": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 0.5, "step": 0.05, "tooltip": held_tip}),
                "seed": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 2**64 - 1,
                        "tooltip": "Chooses the first vectors, the order and the false triples. The same seed gives the same graph.",
                    },
                ),
                "resume": (
                    "BOOLEAN",
                    {"default": True, "tooltip": "On: goes on from the last checkpoint of this filename. Off: starts again."},
                ),
            }
        }

    def execute(
        self,
        knowledge: KnowledgeGraph,
        filename: str,
        steps: int,
        dim: int,
        batch_size: int,
        lr: float,
        margin: float,
        negatives: int,
        held_out: float,
        seed: int,
        resume: bool,
    ) -> dict[str, Any]:
        from ..core.operations.distill import Run
        from ..core.operations.train_graph import GraphTraining, train_graph

        recipe = GraphTraining(seed=seed, batch_size=batch_size, lr=lr, dim=dim, margin=margin, negatives=negatives, held_out=held_out)
        graph, report, plot = train_graph(knowledge, filename, recipe, Run(steps, max(1, steps // 2), resume))
        return {"ui": {"text": [report]}, "result": (graph, report, plot)}


NODE_CLASS_MAPPINGS = {"RapidDrawTrainKnowledgeGraph": TrainKnowledgeGraph}
