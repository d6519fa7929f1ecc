"""Names of options that code and command line share; without torch, so that help is shown at once."""

from typing import Literal

Init = Literal["recurrent", "independent"]
Residual = Literal["ordinary", "improper", "proper"]
KernelName = Literal["uniform", "triangular"]
Selection = Literal["validation", "test"]
Against = Literal["labels", "predictions"]
ToyKind = Literal["residual", "recurrent", "feedforward"]
Debris = Literal["light", "heavy"]
Place = Literal["here", "ray", "slurm"]
Mode = Literal["drop", "share", "repeat"]
SpanKind = Literal["drop", "repeat", "swap"]
Tying = Literal["fit", "dial"]
Metric = Literal["error", "exact_error", "disagreement", "cross_entropy", "distance"]
TrainingPrecision = Literal["float32", "bf16"]
Precision = Literal["single", "double", "half", "bfloat16", "bf16"]
MeasuringPrecision = Literal["weights", "bf16"]
MemoryFormat = Literal["given", "channels_last"]
Tracker = Literal["tensorboard", "mlflow", "wandb"]
Beyond = Literal["last", "cycle"]
Shell = Literal["bash", "zsh", "fish"]
ExitRule = Literal["confidence", "agreement", "kl", "residual", "depth"]
