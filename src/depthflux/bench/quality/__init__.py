"""What pictures are worth, and what may be said of a few figures.

    statistics        percentiles, paired differences and ratios, their intervals, verdicts
    structure         does a picture have the depth that its control image asks for?
    prompt_agreement  does it fit its prompt?
    closeness         how far do two pictures lie apart?
    figures           a figure, or why there is none
    libraries         whether torchmetrics works here, seen before anything is paid for

Knows nothing of sides, of suites, and of how pictures came about. Every measure is computed in
float32 and is the same in every run; models come from folders on this machine, and none is ever
downloaded.
"""
