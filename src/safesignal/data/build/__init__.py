"""The data engine: a recipe in, labelled rows and a report on them out; each step is a pure function.

Parts are read and filtered (`parts`), cleared of what evaluations measure on (`overlap`) and of duplicates
(`duplicates`), drawn, matched in form between the classes (`form`, `match`), varied (`variants`), and answers put
behind requests that they were not given to (`splice`). What a classifier could still learn instead of harm is
measured on the result (`separability`).
"""

__all__: list[str] = []
