"""The English words that the rules of compression know; texts of other languages go without them."""

from __future__ import annotations

_NUMBERS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred hundreds thousand thousands
million millions billion billions trillion dozen half twice third quarter first second last once"""
_NEGATIONS = """no not never none nobody nothing neither nor cannot without except unless hardly barely"""
_OPENERS = """a an the this that these those it its he she they we you i his her their our my your in on at by for from
to of with as and but or nor so if when while where after before since until although though because however there here
what which who whom whose why how some many most all both each every any no not one two three other others another such
also then thus once during under over between among into through despite unlike like more less only even still yet is
are was were be been being do does did has have had can could may might must shall should will would please"""
_PARTICLES = """of the de da del della der den di du la le van von y e &"""
_ABBREVIATIONS = """dr mr mrs ms prof rev hon sr jr st mt ft gen col lt capt sgt gov sen rep pres no nos vs vol fig figs
eq ch sec pp ed eds al ca cf e.g i.e approx dept est inc ltd co corp jan feb mar apr jun jul aug sep sept oct nov dec"""
_EMPTY = """a an the of in on at by for from to with as and or but nor if than that this these those it its is are was
were be been being am do does did done has have had having he she they we you i his her hers their them our my your
which who whom whose what when where why how there here not no so such can could may might must shall should will would
about into over under between among also any some all each both more most other s t"""

#: Numbers, and words that count or order.
NUMBERS = frozenset(_NUMBERS.split())
#: Words that deny; forms with n't besides.
NEGATIONS = frozenset(_NEGATIONS.split())
#: Words that begin sentences with a capital and are no names.
OPENERS = frozenset(_OPENERS.split())
#: Small words inside names, of several languages.
PARTICLES = frozenset(_PARTICLES.split())
#: Words whose full stop ends no sentence.
ABBREVIATIONS = frozenset(_ABBREVIATIONS.split())
#: Words that say nothing of the matter, so that no text is found by them.
EMPTY = frozenset(_EMPTY.split())
