"""Benchmarks: diffusers and depthflux timed side by side; the hosted endpoint and this machine.

    plan          what is timed; what makes no sense is refused before torch is imported
    models        FLUX.1-dev's shapes with random weights, a small one, the packaged miniature
    systems       diffusers' pipeline as it is and compiled, and depthflux's engine
    flux_fast     the flux-fast recipe on today's diffusers
    operations    what a step computes, by the architecture
    roofline      what the device reaches at best for those operations, measured
    rounds        the order of the runs, and statistics over them
    sizes         the contest at one size: warm-up, checks, timed rounds
    first_picture from a process's start to its first picture, and what of it was compiling
    graphs        whether anything compiles once the blocks are warm
    checking      what really ran: attention kernels, weight types, compiled graphs
    clocks, memory, gpu_samples, machine, host    what is read off the device and the computer
    speed         the run: all of the above in order, and the document of its results
    table, chart  the document for a person to read
    goals         what is to be reached on a GPU, held against documents
    hosted        the hosted endpoint and this machine, asked for the same pictures
    document      what that comparison is: sides, figures, cases
    quality       what pictures are worth: measures and their intervals
    report        that comparison for a person to read
    wording       numbers of things in words

Knows nothing of command lines.
"""

from depthflux.quiet import quiet_imports

quiet_imports()
