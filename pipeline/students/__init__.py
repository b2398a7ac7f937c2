"""Students: models, the train step and loop, export to ONNX int8, and the gate.

`models` builds a module; `loop.Trainer` teaches it from a label reader, one action at a time; `export.export_student` makes the
file that ships; `gate.judge` decides about that file. Imports torch; the device needs only `pipeline.inputs`.
"""
