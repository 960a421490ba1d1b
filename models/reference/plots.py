"""What the stories of :mod:`grammar` are made of: the cast, the things of their world, common phrases and the plots.

The notation is explained in :mod:`grammar`; a backslash at the end of a line only breaks the line of the source. The
slots that every story has:

* ``h``, ``f``, ``a``: the hero's name, the friend's name and the word for the grown-up ("mom"), each with ``_he``,
  ``_him``, ``_his``, ``_self``, and ``_He``, ``_His`` where a capital cannot be told from the punctuation;
  ``h_kind`` and ``f_kind`` say what they are ("girl", "fox"), ``A`` is the grown-up as one calls her ("Mom");
* those of the two worlds (:data:`CHILD_WORLD`, :data:`ANIMAL_WORLD`) and of :data:`COMMON_DRAWS`;
* those that the plot draws itself (:attr:`Plot.draws`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Draws = Mapping[str, Sequence[str | tuple[str, ...]]]
"""Slot names, space-separated where several are drawn together, and what to draw them from."""


@dataclass(frozen=True, kw_only=True)
class World:
    """Who lives in a story: children in a house, or animals in a den."""

    names: Mapping[str, Sequence[str]]
    kinds: Mapping[str, Sequence[str]]
    elders: Mapping[str, Sequence[str]]
    draws: Draws


@dataclass(frozen=True, kw_only=True)
class Plot:
    """One course of events: the slots that it draws once for a story, and its beats."""

    beats: str
    draws: Draws = field(default_factory=dict)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


PRONOUNS = {"m": ("he", "him", "his", "himself"), "f": ("she", "her", "her", "herself")}

ANY_NAMES = {
    "f": _words(
        "Lily, Mia, Anna, Sara, Lucy, Emma, Rosa, Nina, Ella, Daisy, Molly, Amy, Jane, Ruby, Ivy, Clara, Maya, Zoe, "
        "Tess, Nora, Kim, Poppy, Eva, Lena, Grace, Lola, Sue, Jill, Hana, Alma, Ida, Pia, Wendy, Sally, Kate"
    ),
    "m": _words(
        "Tim, Ben, Tom, Max, Sam, Jack, Leo, Bob, Dan, Finn, Noah, Luke, Joe, Nick, Adam, Otto, Paul, Theo, Oscar, "
        "Milo, Hugo, Eli, Sammy, Timmy, Billy, Peter, Andy, Jim, Carl, Omar, Ravi, Ned, Gus, Toby, Henry"
    ),
}

KINDS: Mapping[str, Sequence[str]] = {
    "animal": _words(
        "bear, rabbit, bunny, mouse, fox, duck, frog, squirrel, hedgehog, owl, cat, dog, pig, lamb, turtle, kitten, "
        "puppy, goat, monkey, elephant, lion, penguin, pony, bird, fish, cow, horse, sheep, hen, goose, donkey, tiger"
    ),
    "color": _words("red, blue, green, yellow, orange, white, pink, purple, brown, golden, black, silver, gray"),
    "place": _words("park, garden, forest, beach, field, farm, lake, pond, river, hill, meadow, village, yard, woods"),
    "toy": _words("ball, kite, doll, drum, boat, truck, train, balloon, robot, puppet, whistle, book, car, toy"),
    "food": _words("apple, cookie, carrot, pear, banana, cake, sandwich, pie, bun, egg, orange, peach, pancake"),
    "family": _words("mom, mother, mommy, mum, grandma, mama"),
    "father": _words("dad, father, daddy, grandpa, papa"),
    "size": _words("big, little, small, tiny, huge, large"),
    "glad": _words("happy, glad, proud, excited, cheerful, pleased"),
    "sad": _words("sad, upset, scared, angry, lonely, worried, tired, afraid"),
    "look": _words("pretty, beautiful, shiny, lovely, special, old, new, soft, strange, wonderful"),
    "weather": _words("sunny, warm, cold, windy, rainy, bright, hot, cool"),
    "number": _words("two, three, four, five, six, seven, ten"),
    "went": _words("walked, ran, hurried, skipped, wandered, jumped, flew"),
}
"""Words that can stand for one another in most sentences, to vary a story that was not made by the grammar."""

ANIMAL_SHARE = 0.3

CHILD_WORLD = World(
    names=ANY_NAMES,
    kinds={"f": ("girl",), "m": ("boy",)},
    elders={
        "f": _words("mom, mom, mom, mother, mother, mommy, grandma, grandmother, aunt"),
        "m": _words("dad, dad, dad, father, father, daddy, grandpa, grandfather, uncle"),
    },
    draws={
        "home": _words("house, little house, cottage, small house, house at the edge of the village, house by the sea"),
        "hand hands": [("hand", "hands")],
        "folk": _words("children, kids, boys and girls"),
        "room": _words("bedroom, room, kitchen, living room"),
    },
)

ANIMAL_WORLD = World(
    names={
        "f": _words("Dot, Fluffy, Honey, Pip, Snowy, Hazel, Tilly, Penny, Bella, Mimi, Coco, Bonnie, Clover, Pearl"),
        "m": _words("Fuzzy, Rusty, Benny, Hoppy, Bruno, Spot, Patch, Bear, Rocky, Dusty, Buddy, Nutty, Pepper, Teddy"),
    },
    kinds=dict.fromkeys(
        "mf",
        _words(
            "bear, rabbit, bunny, mouse, fox, duck, frog, squirrel, hedgehog, owl, cat, dog, pig, lamb, turtle, "
            "kitten, puppy, goat, monkey, elephant, lion, penguin, pony, mole, beaver, otter, hen, sheep, badger"
        ),
    ),
    elders={
        "f": _words("mother, mother, mom, mama, grandma, aunt"),
        "m": _words("father, father, dad, papa, grandpa, uncle"),
    },
    draws={
        "home": _words("den, little house, hut, cave, cozy home, house under a big tree, warm nest"),
        "hand hands": [("paw", "paws")],
        "folk": _words("animals, little animals, animals of the forest"),
        "room": _words("room, kitchen, corner, den"),
    },
)

COMMON_DRAWS: Draws = {
    "c": _words("red, blue, green, yellow, orange, white, pink, purple, brown, golden, black, silver"),
    "to play": [
        ("ball", "roll it down the hill"),
        ("ball", "throw it high up"),
        ("ball", "kick it"),
        ("kite", "fly it in the wind"),
        ("doll", "comb its hair"),
        ("doll", "make it dance"),
        ("toy car", "drive it along the wall"),
        ("toy truck", "fill it with sand"),
        ("toy train", "pull it across the floor"),
        ("toy boat", "sail it in a puddle"),
        ("teddy bear", "hug it at night"),
        ("drum", "beat it as loud as a storm"),
        ("whistle", "blow it"),
        ("hat", "wear it every day"),
        ("scarf", "wear it when it was cold"),
        ("bucket", "carry water in it"),
        ("book", "look at the pictures"),
        ("rope", "jump over it"),
        ("top", "spin it on the table"),
        ("robot", "make it walk"),
        ("balloon", "hold it by its string"),
        ("bell", "ring it"),
        ("toy plane", "run with it around the yard"),
        ("bag", "keep pretty stones in it"),
        ("box of crayons", "draw with it"),
        ("marble", "hold it up to the light"),
        ("basket", "put flowers in it"),
        ("toy horse", "ride around on it"),
        ("puppet", "make it talk"),
        ("button", "keep it in a pocket"),
        ("ring", "put it on and look at it shine"),
        ("cap", "put it on backwards"),
    ],
    "t": ["{c} {to}", "{c} {to}", "<size> {to}", "<look> {to}", "<size> {c} {to}"],
    "p pi pt": [
        ("park", "in the park", "to the park"),
        ("garden", "in the garden", "into the garden"),
        ("beach", "on the beach", "to the beach"),
        ("forest", "in the forest", "into the forest"),
        ("woods", "in the woods", "into the woods"),
        ("meadow", "in the meadow", "to the meadow"),
        ("field", "in the field", "out to the field"),
        ("river", "by the river", "down to the river"),
        ("pond", "by the pond", "to the pond"),
        ("lake", "by the lake", "to the lake"),
        ("hill", "on the hill", "up the hill"),
        ("farm", "on the farm", "to the farm"),
        ("yard", "in the yard", "out into the yard"),
        ("playground", "at the playground", "to the playground"),
        ("village", "in the village", "to the village"),
        ("old bridge", "by the old bridge", "to the old bridge"),
    ],
    "out": _words(
        "under a bush, behind a big tree, in the tall grass, behind a rock, under the old bench, next to the gate, "
        "in a pile of leaves, in a hole in the ground, between two stones, beside the path, in a puddle, "
        "on a low branch, behind the fence, near the well, under a log, at the edge of the water"
    ),
    "in": _words(
        "under the bed, behind the door, in a box, under the table, in a basket, behind the chair, under a blanket, "
        "on top of the shelf, in a drawer, in a big bag, under the stairs, in an old shoe, behind the curtain, "
        "inside a pot, beside the stove, under a pillow"
    ),
    "n": _words(
        "bird, kitten, puppy, rabbit, mouse, duck, frog, squirrel, hedgehog, turtle, butterfly, snail, lamb, owl, "
        "bee, crab, goose, baby deer, pony, beetle, fish, ant, baby bird, lizard"
    ),
    "d ds": [
        ("apple", "apples"),
        ("pear", "pears"),
        ("cookie", "cookies"),
        ("carrot", "carrots"),
        ("peach", "peaches"),
        ("banana", "bananas"),
        ("cake", "cakes"),
        ("sandwich", "sandwiches"),
        ("berry", "berries"),
        ("plum", "plums"),
        ("orange", "oranges"),
        ("pie", "pies"),
        ("nut", "nuts"),
        ("bun", "buns"),
        ("egg", "eggs"),
        ("potato", "potatoes"),
        ("tomato", "tomatoes"),
        ("cherry", "cherries"),
        ("pancake", "pancakes"),
        ("sweet", "sweets"),
    ],
    "w": _words("sunny, warm, cold, windy, bright, cloudy, cool, hot, quiet, lovely, gray, fine"),
    "spot": _words("old tree, gate, well, bench, barn, mill, church, school, shop, big rock, fountain, tower"),
    "num": _words("two, three, three, four, five, six, seven, ten"),
    "age": _words("three, four, five, six, seven"),
    "job": _words("baker, farmer, shopkeeper, fisherman, old man, old woman, neighbor, gardener, painter, doctor"),
}

PHRASES: Mapping[str, str] = {
    # Single words that many sentences need.
    "little": "little|little|small|young|tiny|sweet|clever|kind|brave|shy|funny|quiet|cheerful",
    "size": "big|little|small|tiny|long|round|new|old|huge",
    "look": "shiny|pretty|soft|old wooden|beautiful|bright|lovely|new|special|tiny wooden|striped|dusty|plain",
    "glad": "happy|glad|very happy|so happy|very glad|full of joy|pleased|delighted|so glad",
    "sad": "sad|very sad|so sad|unhappy|upset|very upset|lonely",
    "scared": "scared|afraid|frightened|very scared|a bit afraid|nervous",
    "tired": "tired|very tired|sleepy|worn out|so tired",
    "proud": "proud|very proud|so proud",
    "saw": "saw|saw|found|noticed|spotted|came across",
    "walked": "walked|went|walked|hurried|ran|skipped|strolled|wandered",
    "say": "said|said|said|said|called|cried|shouted|exclaimed",
    "asked": "asked|asked|asked|wanted to know",
    "softly": "|||softly|quietly|gently|kindly|with a smile|in a small voice|slowly|at once|after a while",
    "then": "Then|Then|After that|Soon|Next|A little later|After a while|At last",
    "when": "one day|one day|one morning|one afternoon|one {w} day|one {w} morning|on "
    "[Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday]"
    "|in the [spring|summer|autumn|winter]|one spring day|after [school|lunch|breakfast]|early one morning|on a {w} "
    "afternoon",
    "suddenly": "Suddenly|All at once|Just then|At that moment|All of a sudden",
    "verygood": "good|very good|wonderful|great|lovely|fine|fun|perfect",
    "tasty": "tasty|sweet|warm|fresh|yummy|delicious|good",
    "carefully": "carefully|slowly|gently|with care|very slowly|quietly",
    "quickly": "quickly|fast|as fast as {h_he} could|right away|at once",
    "again": "again|once more|one more time",
    "animal": "bird|rabbit|squirrel|fox|duck|cow|horse|sheep|goat|cat|dog|frog|deer|butterfly|bee|hen|mouse|snail",
    "color": "red|blue|green|yellow|orange|white|pink|purple|brown|gray|black|golden",
    "plant": "flowers|trees|grass|bushes|roses|leaves|berries|mushrooms|weeds|daisies",
    # Whole sentences that fit almost anywhere.
    "nature": "The sun was [shining|warm|high in the sky|just coming up|about to set]."
    "|The wind [blew|sang|was soft] [in the trees|over the grass|across the fields]."
    "|The sky was [blue|gray|clear|full of clouds|pink and gold]."
    "|[A|One] [little |big |]<color> <animal> [sat|slept|rested] [on a stone|under a tree|by the path|in the shade]."
    "|The [air|grass|ground] [smelled|felt] [fresh|warm|wet|sweet]."
    "|[Birds|Bees|Frogs] [sang|hummed|played] [in the trees|near the water|all around]."
    "|There were <color> <plant> [everywhere|on both sides|by the gate|along the wall]."
    "|It had rained [in the night|the day before], and [the ground was wet|there were puddles on the road]."
    "|A [cart|bus|truck|wagon] [went by|rolled past|stopped at the corner]."
    "|<person> <doing>."
    "|<person> <doing>."
    "|[High up|Far away|Close by|In the distance], {h_he} [heard|could hear] [a bell|a train|the sea|a dog bark|music"
    "|the wind in the leaves|thunder|a rooster|children laugh|somebody sing]."
    "|There was a [smell|scent] of [fresh bread|wet leaves|smoke|salt|cut grass|soap|cinnamon|pine "
    "trees|roses|apples].",
    "person": "[A|The] "
    "[baker|teacher|postman|farmer|tailor|nurse|sailor|fisherman|driver|carpenter|painter|soldier|king"
    "|queen|girl with a braid|boy with a drum|tall man|young woman|mother with a baby|shepherd|miller|police officer]",
    "doing": "[was|stood] [at the corner|on the steps|by the window|across the street] and [waved|waited|sang|read a "
    "letter"
    "|fed the pigeons|ate a roll|looked at the clock]|[mended|painted|fixed] [a net|a fence|a wheel|a roof|a coat|a "
    "chair]"
    "|carried [a ladder|a sack|a tray of bread|milk cans|an umbrella|a stack of books|a suitcase]"
    "|swept the [street|floor|steps|yard]|sold [newspapers|lemonade|socks|cheese|candles|tickets]"
    "|[pushed|pulled] a [cart|wagon|sled|wheelbarrow]|hung up [the washing|shirts and sheets|lanterns]"
    "|dug in the [garden|sand|field]|[rode by|passed] on a [horse|bicycle|donkey|camel]|[was asleep|slept] in the sun",
    "onway": "On the way {h_he} [passed|saw] a [<color> |little |big |]<animal> and [some|a lot of|many] <color> "
    "<plant>."
    "|{h} [hummed|sang|whistled] a [little |silly |happy |]song [as {h_he} walked|on the way|all the way]."
    "|The [path|road|way] was [long|short|steep|narrow|muddy], but {h} did not [mind|stop|care|turn back]."
    "|{h} [jumped over|went around|stepped over] a [log|puddle|stone|little stream] and [went on|kept going]."
    "|{h_he} went [past the {spot}|over the bridge|through the gate|along the wall|around the corner] and [on|up the "
    "road]."
    "|<nature>",
    "feel": "{h} felt <glad>.|{h} could not stop smiling.|{h_his} heart [beat fast|jumped|was light].|{h} "
    "[clapped|laughed]"
    " [out loud|with joy|and laughed].|{h} [smiled|grinned|nodded].",
    "feelbad": "{h} felt <sad>.|{h} [began|started|wanted] to cry.|[A tear|Two tears] ran down {h_his} "
    "[cheek|face|nose]."
    "|{h} [sat down|looked down|sighed] and [did not say a word|put {h_his} head in {h_his} {hands}|felt alone]."
    "|{h} did not know what to do.",
    "think": "{h} thought [for a moment|hard|about it|for a long time].|{h} [stopped|waited] and thought."
    "|{h} [scratched|shook] {h_his} head.|{h} looked [up|around|at the sky|at {h_his} {hands}] and thought.",
    "who": "There [was once|once was|was] a <little> {h_kind} named {h}."
    "|Once upon a time[, there| there] was a <little> {h_kind} [named|called] {h}."
    "|Once upon a time[, there| there] was a <little> {h_kind}. {h_his} name was {h}."
    "|{h} was a <little> {h_kind} who lived in a {home}."
    "|{h} was a <little> {h_kind}."
    "|Once there was a {h_kind} named {h} who lived with {h_his} {a} in a {home}."
    "|{h} lived with {h_his} {a} [in a {home}|near the {p}|by the {p}]."
    "|In a [small|quiet|far] [village|town|valley] lived a {h_kind} named {h}."
    "|Long ago, [in a {home}|near a {p}], there lived a {h_kind} called {h}."
    "|A <little> {h_kind} named {h} lived in a {home}.",
    "trait": "{h_he} [loved|liked] to [play|sing|run|draw|jump|dance|read|swim|climb|dig|help|cook|count the stars] "
    "[outside"
    "|all day|with {h_his} friends|{pi}|with {f}|when it was {w}|after breakfast|before bed|every day]."
    "|{h_he} was {age} years old."
    "|{h_he} had a [best |good |]friend [named|called] {f}."
    "|{h_his} best friend was a {f_kind} named {f}."
    "|{h_he} [always|often] [smiled|asked many questions|helped {h_his} {a}|wore a {c} [hat|coat|scarf]]."
    "|{h_he} had a {c} [hat|coat|bag|scarf|blanket|pair of boots], and {h_he} [was proud of it|took it everywhere]."
    "|{h_he} was [kind|brave|shy|curious|careful|helpful] and [liked everyone|always told the truth|had many friends].",
    "open": "<who> <trait>|<who>|<who> <trait> <trait>|",
    "day": "<when>, {h}|<when>, {h}|on a {w} [day|morning|afternoon], {h}|it was a {w} day. {h}|one day {h}"
    "|it was [early|late] in the [morning|day]. {h}",
    "goout": "<day> [<walked>|went out|went to play] {pt}.|<day> <walked> {pt} [with {f}|with {h_his} {a}|alone].",
    "hugs": "{h_his} {a} [hugged|kissed|held] {h_him}[| tight| for a long time| and smiled].",
    "thanks": '"Thank you[, {h}|]," <say> {f}.|"thank you so much!" said {f}.|{f} said thank you[| many times| with a '
    "smile].",
    "bed": "That night {h} [slept well|went to bed early|fell asleep with a smile|had a [happy|lovely|good] dream]."
    "|{h} [told|said to] {h_his} {a} [all about it|everything] [before bed|at dinner|that evening]."
    "|When {h} was in bed, {h_he} [thought of|dreamed of] [{f}|the {p}|the day] and smiled.",
    "end": "it had been a <verygood> day.|They were all <glad>.|{h} never forgot that day.|And {h} was <glad>."
    "|From that day on, {h} and {f} were [best|good|great] friends.|And they [all |]lived happily [ever "
    "after|together]."
    "|it was the best day of all.|{h} could not wait for the next day.|{h} went to sleep with a smile."
    "|Everyone [laughed|smiled|was happy].|||<bed>|<bed>",
}

PLOTS: Sequence[Plot] = (
    # A lost toy is found where the cause put it.
    Plot(
        draws={
            "why there": [
                ("the wind [blew it away|took it]", "in the branches of a tree"),
                ("the wind [blew it away|took it]", "on the roof of the barn"),
                ("it [fell|dropped] out of {h_his} bag", "on the path"),
                ("it [rolled|slid] down the hill", "{out}"),
                ("it fell [from|out of] {h_his} {hand}", "{out}"),
                ("a [dog|crow|goat] [took|carried] it away", "behind the barn"),
                ("a [dog|crow|fox] [took|carried] it away", "{out}"),
                ("{h_he} [put it down|left it] to pick flowers", "in the flowers"),
                ("{h_he} [put it down|left it] to [eat|rest]", "{out}"),
            ]
        },
        beats="""
<open>
{h} had a {t}. {h_he} [loved|liked] to {play}. [It was a gift from {h_his} {a}.|{h_he} took it everywhere.|]
<goout> [{h_he} took the {to} with {h_him}.|The {to} came too.]
~<onway>
But [on the way|while {h_he} was playing|there] {why}, and {h} did not [see|notice] it.

<then> {h} [looked for|wanted to play with|reached for] the {to}. It was [gone|not there]!
<feelbad>
~"Where is my {to}?" <say> {h}. [{h_he} looked {out}.|]
{f} [came by|heard {h_him}|was near]. "[What is wrong|Why are you sad|What happened]?" <asked> {f}. "I [lost|cannot \
find] my {t}," said {h}.
"[I will help you look|Let us look for it together|Do not cry, we will find it]," said {f} <softly>.
[They|{h} and {f}] looked {out}. [They looked {in}.|They looked everywhere.|] [It was not there.|No {to}.|Nothing!]
~<think> Perhaps {why}.

<suddenly> {f} [pointed|called|shouted]. "[Look|There it is|I see something {c}]!" The {to} was {there}!
{h} [picked it up|took it|ran to get it] and [hugged it|held it tight|laughed]. <feel>
<thanks> [They played together until the evening.|Then they took turns to {play}.|"You are a good friend."]
<end>
""",
    ),
    # Sharing food with someone hungry.
    Plot(
        draws={"many few": [("four", "two"), ("six", "three"), ("ten", "five"), ("eight", "four")]},
        beats="""
<open>
<when>, {h_his} {a} gave {h} {many} {ds}. "[These are for you|Do not eat them all at once|Enjoy them]," {a_he} said.
{h} [put them in a basket|put them in {h_his} bag|took them] and <walked> {pt}.
~<onway>
{h} [sat down|was about to eat] {out} when {h_he} <saw> {f}. {f} looked <sad>.
"[What is wrong|What is the matter|Why do you look so sad]?" <asked> {h}. "I am hungry. I [lost my lunch|have no \
food|have not eaten today]," said {f}.

{h} looked at the {ds}. {h_he} [wanted|had wanted] to eat them all. <think>
<then> {h} [smiled|sat down next to {f}]. "[I have {many} {ds}. You can have {few}|We can share|Take {few} of my \
{ds}]," {h_he} said.
{h} gave {few} {ds} to {f}, and {h_he} kept {few}. [The {ds} were <tasty>.|They ate side by side.|They ate and \
talked.|]
<thanks>
~{h} learned that [food tastes better with a friend|it is good to share|sharing makes two people happy].
[The next day|A week later], {f} [came back|came to the {home}] with a [basket|bag|box] of {ds}. "[Now I can share \
with you|These are for you]," {f_he} said.
<end>
""",
    ),
    # A rainy day.
    Plot(
        beats="""
<open>
<when>, {h} [wanted|planned] to [play|go] {pt}. But [it rained|the rain came down|dark clouds came and it began to \
rain].
{h} [looked out of|sat by|stood at] the window. <feelbad>
"[I hate the rain,|Why does it have to rain?|Rain, rain, go away,]" {h_he} said. "[I cannot play outside|I wanted to \
go {pt}]."
{h_his} {a} [came in|smiled]. "[Rain is good for the <plant>|Rain can be fun|The <plant> are thirsty]," {a_he} said. \
"[Put on your boots|Get your coat and boots|Let us go out and see]."

{h} put on {h_his} {c} [boots|coat|hat] and went out[ with {h_his} {a}|]. The rain [fell on {h_his} hat|was \
warm|went tap, tap, tap].
There was a <size> puddle near the {spot}. {h} jumped in. Splash! [The water went everywhere.|Mud went all over \
{h_his} coat.|]
~{h} <saw> a {n} {out}. [It was wet and happy.|It liked the rain too.|It drank from a puddle.]
~{f} [came out|ran out] too. {h} and {f} [jumped together|made boats from leaves|made a river in the mud].
<then> the rain stopped and the sun came out. There was a rainbow [over the {p}|in the sky]! [It was red, yellow, \
green and blue.|]
"[Look|How pretty|It is beautiful]!" said {h}. "[I like the rain now|Rain is not so bad|I hope it rains again]."

{h} went [in|home] and {h_his} {a} gave {h_him} [dry clothes|a towel] and [warm soup|hot milk|warm tea|a <tasty> {d}].
<end>
""",
    ),
    # A hurt animal is helped.
    Plot(
        draws={
            "part aid back": [
                ("wing", "[tied|put] a soft cloth around its wing", "flew up into the sky"),
                ("leg", "[tied|put] a soft cloth around its leg", "jumped around the room"),
                ("foot", "washed its foot and [tied|put] a ribbon around it", "ran in a circle"),
                ("tail", "washed its tail with warm water", "shook its tail"),
                ("ear", "[washed|cleaned] its ear and put something on it", "lifted its ears"),
            ],
            "n": _words("bird, kitten, puppy, rabbit, mouse, duck, squirrel, owl, goose, baby bird, cat, crow, dove"),
        },
        beats="""
<open>
<goout>
~<onway>
<suddenly> {h} heard a [soft|small|sad] [sound|cry|voice]. [It came from somewhere near.|What was it?|]
{h_he} looked {out} and <saw> a {n}. Its {part} was hurt, and it could not [move|get away|go home].
"[Poor {n}!|Oh no!|You poor thing,]" <say> {h} <softly>. "[Do not be afraid|I will help you|I will not hurt you]."
The {n} was <scared>, but {h} [was gentle|spoke softly|waited]. {h_he} <carefully> [picked it up|put it in {h_his} \
hat|held it in {h_his} {hands}].

{h} took the {n} home to {h_his} {a}. "[Can we help it?|Look, its {part} is hurt.|Can you help the {n}?]" {h_he} \
asked.
{h_his} {a} [nodded|looked at the {part}]. {a_he} {aid}. {h} made a bed in a [box|basket] and gave the {n} \
[water|some milk|food|seeds and water].
[Every day|Each morning|Day after day] {h} [fed the {n}|sat with the {n}|looked after it]. [Little by \
little|Slowly], the {n} got [better|stronger].
~{f} came to see it too. "[What a nice {n},|You take good care of it,|Can I hold it?]" said {f}.

[After a week|One morning|At last] the {n} was well. It {back}. {h} [opened the door|took it back {pt}] and let it go.
{h} was a little sad, but also <glad>. "[Goodbye, {n}|Be careful|Come back and visit me]!" {h_he} <say>.
~[Every spring|Sometimes|The next day] the {n} came back [and sat near the window|to say hello|to see {h}].
<end>
""",
    ),
    # Baking a cake; something is missing.
    Plot(
        draws={
            "miss giver": [
                ("milk", "the cow on the farm"),
                ("eggs", "the hen"),
                ("eggs", "{f}"),
                ("milk", "{f}"),
                ("flour", "the baker"),
                ("sugar", "the neighbor"),
                ("honey", "the bees"),
                ("butter", "the farmer"),
                ("berries", "{f}"),
                ("apples", "the neighbor"),
            ],
            "for": ["{f}", "{h_his} {a}", "{h_his} sick friend {f}", "the {p} party"],
            "dish": _words("cake, pie, big cake, birthday cake, pot of soup, bread, pan of pancakes, tray of cookies"),
        },
        beats="""
<open>
<when>, {h} wanted to make a {dish} for {for}. {h_his} {a} said, "[I will help you|What a good idea|Let us do it \
together]."
They [went into the kitchen|washed their {hands}|took out a big bowl]. [They put in flour and salt.|They looked for \
everything they needed.|{h} put on an apron.]
But they had no {miss}! "[We cannot make it without {miss},|Oh no, we have no {miss},|What can we do?]" <say> {h}.
<think> "[I know|I have an idea]! I can ask {giver} for {miss}," {h_he} said.

{h} took a [basket|bag|cup|jar] and <walked> to find {giver}. <onway>
"[Please|Hello|Good morning]! [Can I have some {miss}|May I have a little {miss}|Do you have any {miss}]?" <asked> \
{h}.
{giver} [gave {h_him} some {miss}|was glad to help|had a lot of {miss}]. {h} said thank you and [ran|hurried|walked \
<carefully>] home.
~{h_he} [almost fell|tripped on a stone], but the {miss} [was safe|did not fall].

{h} and {h_his} {a} [mixed it all|stirred and stirred|put the {miss} in the bowl and mixed]. Then they put it [in \
the oven|on the fire].
Soon the {home} smelled [good|sweet|wonderful]. [The {dish} was done.|It was ready at last.|]
{h} [gave|took|brought] the {dish} to {for}. [Everyone had some.|"It is <tasty>!" they all said.|"You made this for \
me? Thank you!"|]
~{h} [took|sent] a piece to {giver} too, to say thank you for the {miss}.
<end>
""",
    ),
    # A little boat on the water.
    Plot(
        draws={
            "made": _words("paper, wood, a leaf, a nut shell, an old shoe, a box, bark and a stick"),
            "trouble": [
                "the wind took it far from the shore",
                "it got stuck between two stones",
                "the water carried it away",
                "its string broke and it went away",
                "a duck pushed it into the reeds",
            ],
        },
        beats="""
<open>
<when>, {h} and {h_his} {a} made a boat of {made}. [It had a {c} sail.|{h} painted it {c}.|They gave it a {c} flag.]
{h} took the boat to the [pond|river|lake|stream] and put it on the water. It [floated|sailed well|went up and down]!
~"[Go, little boat, go|Look at my boat|It can swim]!" <say> {h}.
~<nature>
<suddenly> {trouble}. "[Oh no, my boat|Come back|Stop, little boat]!" cried {h}.
{h} [ran along|stood at] the edge of the water. {h_he} could not reach it. {h_he} knew that {h_he} must not go into \
the deep water alone.

<feelbad>
A {n} was [near|watching them]. "[Why do you cry|What is wrong]?" asked the {n}. "{trouble}," said {h}. "[Can you \
help me?|I cannot get my boat.]"
"[Wait here|I can get it|Of course]," said the {n}. [It was <quickly> gone.|It went out over the water.|] Soon it \
came back and brought the boat of {made} with it.
"[Thank you, kind {n}|You are so kind|Thank you so much]!" said {h}. {h_he} gave the {n} [a piece of bread|half of \
{h_his} {d}|a {d}].
<then> {h} tied a [long|strong|new] string to the boat, so that it could not get away <again>.
<end>
""",
    ),
    # Fear of the dark.
    Plot(
        draws={
            "noise cause": [
                ("scratch, scratch", "a branch at the window"),
                ("tap, tap, tap", "the rain on the roof"),
                ("creak, creak", "the old door in the wind"),
                ("squeak", "a little mouse that wanted some bread"),
                ("hoo, hoo", "an owl in the old tree"),
                ("bump, bump", "the dog, who could not sleep"),
                ("drip, drip", "water that fell into the bucket"),
                ("whoosh", "the wind in the curtain"),
            ],
            "light": _words("lamp, candle, little light, lantern, torch, jar of fireflies"),
        },
        beats="""
<open>
{h} was not afraid of [dogs|spiders|the rain|storms|big waves], but {h_he} was afraid of the dark.
[One night|One evening|Last night|On a {w} night], {h} went to bed. [The room was dark.|{h_his} {a} turned off the \
light.|It was a night without a moon.]
Then {h} heard a [noise|sound]. "{noise}," it went. [It came from the window.|It was very near.|It did not stop.|]
"[Who is there|What is that|Is that a monster]?" <say> {h}. {h_he} pulled the blanket over {h_his} head. <feelbad>
"{A}! [Come here|There is something in my room|I am scared]!" {h_he} <say>.

{h_his} {a} came with a {light}. "[What is wrong|Why are you awake|What did you hear], {h}?" {a_he} asked. "I heard \
a noise. It went {noise}," said {h}.
"[Let us look together|Come, we will find it|Take my {hand} and we will see]," said {h_his} {a}. They [looked under \
the bed|looked behind the door|walked around the room].
"{noise}," it went again. {h} held up the {light}. It was only {cause}!
{h} [laughed|began to laugh|had to laugh]. "[It was not a monster at all|So that was the noise|It was only \
{cause}]!" {h_he} said.
"[The dark hides things, but it does not change them|Things are the same in the dark as in the day|Now you know]," \
said {h_his} {a}.
~{a_he} left the {light} [by the bed|on the table], [but {h} did not need it|just in case].
{h} closed {h_his} eyes. "{noise}," it went, but {h} was not <scared> any more. {h_he} [fell asleep|slept until \
morning|smiled and slept].
""",
    ),
    # A quarrel is made up.
    Plot(
        beats="""
<open>
{h} and {f} [were best friends|played together every day|lived next to each other]. <when> they <saw> a {t} {out}.
"[It is mine|I saw it first|Give it to me]!" said {h}. "No, [it is mine|I saw it first|I want it]!" said {f}.
{h} pulled, and {f} pulled. [Crack|Snap|Oh no]! The {to} [broke|fell into the mud|broke in two].
"[Look what you did|This is your fault|You broke it]!" <say> {f}. {f_he} [went away|ran home|turned around]. {h} was \
angry too, and {h_he} went home.

At home {h} [sat alone|could not play|did not eat {h_his} {d}]. {h_he} [missed {f}|felt bad|thought of {f}].
{h_his} {a} asked, "[What is wrong|Why are you so quiet|Where is {f}]?" {h} told {a_him} about the {to}.
"[A friend is worth more than a {to},|What do you want more, the {to} or {f}?|You can say sorry,]" said {h_his} {a}.
<think> {h_he} [took|got] [some glue|string and glue|a brush and water] and [fixed the {to}|made the {to} like \
new|worked all afternoon on the {to}].

The next [day|morning] {h} <walked> to see {f}. "I am sorry, {f}," {h_he} said. "[I should not have pulled|I was not \
nice|I want to be friends]."
"I am sorry too," said {f}. [{f_he} smiled.|They hugged.|] "[You can have it first|We can share it|Let us play with \
it together]."
[They took turns.|First {f} had the {to}, then {h}.|They played with the {to} all day.] <end>
""",
    ),
    # Planting a seed and waiting.
    Plot(
        draws={
            "seed grown": [
                ("seed", "a tall sunflower"),
                ("seed", "a big pumpkin"),
                ("tiny seed", "a {c} flower"),
                ("bean", "a long green bean plant"),
                ("apple seed", "a little apple tree"),
                ("seed", "a sweet melon"),
                ("carrot seed", "the biggest carrot in the village"),
                ("nut", "a small tree"),
                ("cherry stone", "a tree with {c} flowers"),
            ]
        },
        beats="""
<open>
<when>, {h_his} {a} gave {h} a {seed}. "[Plant it and wait|Put it in the ground|Take care of it]," {a_he} said.
{h} [dug|made] a [small|little|deep] hole {pi} and put the {seed} in it. {h_he} [covered it with earth|gave it some \
water|poured water on it].
The next [day|morning] {h} went to look. There was nothing. <feelbad>
~"[Grow, little seed!|Why do you not grow?|Wake up!]" {h_he} <say>.
"It [does not|did not] grow," {h_he} told {h_his} {a}. "[You must wait|Good things take time|Be patient]," said \
{h_his} {a}. "[It needs water and sun|It sleeps now, but it will wake up]."

[Every day|Each morning] {h} [brought water|watered the {seed}]. [{h_he} pulled out the weeds.|{h_he} sang to \
it.|{h_he} kept the birds away.|] [The sun shone.|It rained a little.|Days went by.]
~{f} laughed. "[There is nothing there|You water the mud]," {f_he} said. But {h} did not stop.
One [day|morning] there was something [green|small and green] in the ground! "[It grows|Look, look|My plant]!" <say> \
{h}.
It grew and grew. In the [summer|end] it was {grown}.
<feel> [{f} came to see it.|Everyone came to see it.|] "[You were right to wait,|How did you do that?|It is \
beautiful,]" said {f}. "[I gave it water every day|I waited|It only needed time]," said {h}.
<end>
""",
    ),
    # A trip to market: what was bought, and why the money went elsewhere.
    Plot(
        draws={
            "buy": [
                "a {c} hat",
                "some {ds}",
                "a fish",
                "bread",
                "a {to}",
                "a pot of honey",
                "a bag of {ds}",
                "milk",
                "a lamp",
            ],
            "sell": ["a hen", "eggs", "wool", "flowers", "a basket of {ds}", "wood", "some cheese"],
        },
        beats="""
<open>
<when>, {h_his} {a} said, "[We need {buy}|There is no food in the house|Today is market day]. [Take this coin|Here \
is a coin|Come with me to the market], {h}."
{h} <walked> to the market [with {h_his} {a}|with a basket]. <onway>
At the market there were [many|so many] people. One sold {sell}, one sold <color> [cloth|hats|shoes|birds], and one \
sold <tasty> {ds}.
{h} looked at everything. [It was loud.|It smelled good.|{h_he} had never seen so much.] [Then {h_he} <saw> a {t}. \
How {h_he} wanted it!|]
~"[Buy, buy|Fresh {ds}|Come and see]!" called the {job}.
{h} [put {h_his} {hand} in {h_his} pocket|looked for the coin|opened {h_his} bag]. The coin was gone! <feelbad>

{h_he} went back the same way. {h_he} looked {out}. {h_he} looked near the {spot}. There {h_he} met {f}.
"[Are you looking for this?|I found this.|Is this yours?]" asked {f}. {f_he} held the coin in {f_his} {hand}. "[I \
found it {out}|It was {out}]."
"Yes, [that is mine|it is my coin]! Thank you for [telling me|giving it back]!" said {h}. <feel>
{h} bought {buy}. There was [a little money left|one small coin left], so {h_he} bought a {d} and [gave half to \
{f}|shared it with {f}|gave it to {f}].
Then {h} went home, and {h_his} {a} was <proud> of {h_him}.
<end>
""",
    ),
    # An animal stuck in a high or narrow place.
    Plot(
        draws={
            "stuck tool": [
                ("high up in a tree", "a ladder"),
                ("high up in a tree", "a long rope and a basket"),
                ("on the roof", "a ladder"),
                ("in a deep hole", "a rope"),
                ("in a deep hole", "a long board"),
                ("on a rock in the river", "a long board"),
                ("in a dry well", "a bucket on a rope"),
            ],
            "n": _words("kitten, cat, puppy, lamb, squirrel, young goat, rabbit, baby fox, monkey, hen"),
        },
        beats="""
<open>
<goout>
~<nature>
<suddenly> {h_he} heard a [small|sad|thin] voice. [A little {n} was {stuck}.|{h_he} looked and <saw> a {n} {stuck}.] \
It could not get [away|out|back].
"[Help|Help me|Please help]!" cried the {n}. "[I went too far|I wanted to see the world|I ran after a butterfly], \
and now I am {stuck}!"
{h} tried to reach the {n}, but {h_he} was too [small|short]. <think>
"[Wait here|Do not move|Hold on]! I will get [help|someone]," {h_he} said. {h_he} ran to {f}.

"{f}, come <quickly>! A {n} is {stuck}!" <say> {h}. "[What can we do|How can we help]?" asked {f}. "[We need \
{tool}|Let us get {tool}|I know where there is {tool}]," said {h}.
They got {tool} from [the barn|the {job}|{h_his} {a}] and [ran back|hurried back]. {f} held it, and {h} helped the \
{n}. [It was hard.|The {n} shook with fear.|"Slowly, slowly," said {f}.|]
At last the {n} was safe. It [jumped into {h_his} arms|licked {h_his} {hand}|said thank you to both of them].
"[Now I will stay on the ground|I will be more careful|You saved me]," said the {n}. [{h} and {f} laughed.|{h} and \
{f} took it home to its mother.|]
<end>
""",
    ),
    # Something breaks; telling the truth.
    Plot(
        draws={
            "item how": [
                ("{c} cup", "it [fell|slipped] from {h_his} {hands}"),
                ("window", "{h_he} [kicked|threw] the ball too hard"),
                ("{c} vase", "{h_he} ran through the {room}"),
                ("lamp", "{h_he} jumped on the bed"),
                ("{c} plate", "{h_he} put it too near the edge"),
                ("jar of honey", "{h_he} climbed up to the shelf"),
                ("clock", "{h_he} wanted to see what was inside"),
                ("pot", "{h_he} danced on the table"),
                ("mirror", "{h_he} threw a shoe"),
            ]
        },
        beats="""
<open>
<when>, {h} was alone in the {room}. {h_his} {a} was [outside|in the garden|at the market|asleep].
{h} [played|was playing] near the {item}. {h_his} {a} loved that {item}. [It was old.|It came from {a_his} mother.|]
Then {how}. Crash! The {item} was broken.
<feelbad> "[What will {A} say?|Oh no!|What have I done?]" {h} thought.
{h} [hid|put] the pieces {in}. [Nobody saw it.|"Nobody will know," {h_he} thought.|] But {h_he} [felt bad|could not \
play|felt sick inside].

<then> {h_his} {a} came in. "Where is the {item}?" {a_he} asked. [{h} looked at the floor.|{h} did not say a \
word.|{h} turned red.]
~"[Maybe the cat broke it|I do not know|Maybe the wind took it]," said {h}. But that was not true, and {h} knew it.
<think> Then {h} [told the truth|began to cry|took a deep breath]. "I [broke|did it. I broke] the {item}," {h_he} \
said. "The pieces are {in}. I am sorry."
{h_his} {a} was [quiet|sad] for a moment. Then {a_he} [hugged {h_him}|took {h_his} {hand}|sat down]. "[Thank you for \
telling me|I am glad you told the truth|The truth is worth more than a {item}]," {a_he} said.
"[We can fix it|We can get a new one|Let us clean up together]." [They cleaned up together.|They put the pieces \
together with glue.|{h} got the broom.]
{h} felt [light|better] again. From then on, {h_he} always told the truth.
""",
    ),
    # A new one in the village; making friends.
    Plot(
        beats="""
<open>
<when>, a new {f_kind} came to live [in the village|near the {p}|next door|near the {spot}]. {f_his} name was {f}. \
{f} [was shy|did not know anyone|looked different].
The other {folk} played, but {f} sat alone {out}. [Nobody talked to {f_him}.|{f_he} watched them and said nothing.|]
{h} <saw> {f}. "[Why does {f_he} sit alone?|{f_he} looks lonely,]" {h_he} thought. {h} [remembered|knew] how it felt \
to be alone.
{h} took {h_his} {t} and [went|walked] over to {f}. "Hello, I am {h}. [Do you want to play|Would you like to play \
with me|What is your name]?"
{f} looked up. "[I am {f}|My name is {f}|Hello]," {f_he} said <softly>. "[I do not know your games|I have no friends \
here|I would like that]."

"[I will show you|That is easy|You have one now]," said {h}. {h} showed {f} how to {play}. [At first it was \
hard.|{f} was very good at it.|{f} laughed for the first time.]
~Then {f} showed {h} [a song|a game|a dance|how to whistle] from {f_his} old home. "[That is fun|Show me again|I \
never saw that]!" said {h}.
~The other {folk} came too. "[Can we play with you?|What a good game!|Can you teach us?]" they asked.
When it was [late|dark], {f} said, "[Will you come back tomorrow?|This was the best day.|Now I am not alone any \
more.]" "[Of course|Yes|I will come every day]," said {h}.
<end>
""",
    ),
    # Lost, and the way home.
    Plot(
        draws={
            "lure": [
                "a {c} butterfly",
                "a rabbit",
                "a {c} bird",
                "a little fox",
                "a {c} balloon in the wind",
                "a squirrel with a nut",
            ],
            "sign": [
                "the smoke of the {home}",
                "the {spot}",
                "the light in the window",
                "the river, and went along it",
                "the {c} flowers by the path",
                "the sound of the bell",
                "{h_his} own steps in the mud",
            ],
        },
        beats="""
<open>
{h_his} {a} always said, "[Stay near the house|Do not go too far|Stay on the path]." But <when>, {h} <saw> {lure}.
{h} followed {lure} [deep into the forest|into the woods|over the hill|through the tall grass]. {h_he} [ran and \
ran|went on and on|did not look back].
<then> {lure} was gone. {h} looked around. [All the trees looked the same.|{h_he} did not know this place.|There was \
no path.]
"[Where am I?|I am lost.|Which way is home?]" {h_he} said. <feelbad>
~It [was getting dark|began to get cold|began to rain]. [The wind blew.|An owl called.|]

<think> "[A good place to look from is a hill|{A} says: if you are lost, stay calm|I must not cry. I must think]," \
{h_he} said.
~A {n} came by. "[Are you lost|Where do you want to go]?" it asked. "[Go that way|Follow me|Look over there]."
{h} climbed [up on a rock|up a tree|the hill] and looked. {h_he} saw {sign}! [Now {h_he} knew the way.|That was the \
way home.]
{h} <walked> and <walked>. At last {h_he} saw the {home}. {h_his} {a} stood at the door and called, "{h}! {h}!"
"{A}!" cried {h}, and ran into {a_his} arms. "I followed {lure}, and I was lost. [I am sorry|I will not do it again]."
<hugs> "[I am so glad you are here|You were brave|You are home now]," {a_he} said. [They ate warm soup.|They went \
in, and it was warm.|]
<end>
""",
    ),
    # A present for a birthday.
    Plot(
        draws={
            "gift": [
                "a {t}",
                "a {t}",
                "a picture",
                "a <size> {c} cake",
                "a song",
                "a box of {ds}",
                "a {c} flower in a pot",
            ]
        },
        beats="""
<open>
It was the birthday of {f}. {f} was {h_his} best friend. {h} wanted to give {f_him} something special.
But {h} had no [money|coins]. <feelbad>
"What [can I give {f}|would {f} like]?" {h} asked {h_his} {a}. "[Something from the heart.|You can make \
something.|What does {f} like most?]" said {h_his} {a}.
<think> "I know! I will [make|give {f}] {gift}," said {h}.
{h} worked [all day|the whole morning|until dark]. [{h_he} did not stop to eat.|It was not easy.|First it went \
wrong, but {h_he} tried again.|] [{h_his} {a} helped a little.|]

Then {h} [put it in {c} paper|tied a {c} ribbon around it|hid it behind {h_his} back] and <walked> to the party. \
<onway>
There were many [presents|gifts] on the table. [They were big.|They were all new and shiny.|] {h} [was a bit \
afraid|felt shy|stood at the door]. "My gift is so small," {h_he} thought.
"Happy birthday, {f}!" said {h}. {f} opened it. It was {gift}!
"[Did you make this for me?|This is what I always wanted!|Nobody ever gave me {gift}!]" <say> {f}. "[It is the best \
gift of all|I love it|Thank you, {h}]!"
<feel> They [ate cake|danced|sang|played games] and laughed [until the evening|all day].
<end>
""",
    ),
    # A race.
    Plot(
        beats="""
<open>
{f} was the fastest of all the {folk}. "[Nobody can beat me|I am the best|I always win]," {f_he} [said|liked to say].
<when>, there was a race from the {spot} to the {p}. [The winner would get a {t}.|The prize was a basket of \
{ds}.|Everyone came to watch.] {h} wanted to [run|race] too.
"You? [You are too slow|You are too small]!" laughed {f}. {h} [said nothing|was sad, but did not give up]. "I will \
[try|do my best]," {h_he} said.
"One, two, three, go!" {f} ran [off|away] like the wind. {h} was [far behind|last]. [But {h_he} did not stop.|Step \
by step, {h_he} went on.|]

Then {f} looked back. "{h} is so far away. I can [rest a little|eat some {ds}|sleep for a while]," {f_he} said. \
{f_he} sat down {out} and [closed {f_his} eyes|fell asleep|ate one {d} after the other].
{h} was [hot|<tired>], but {h_he} kept going. {h_he} [ran past {f}|saw {f} and ran on].
~"[Go, {h}, go|Run, {h}|You can do it]!" the {folk} <say>.
{f} [woke up|jumped up] and ran, but it was too late. {h} was [already there|first]! [Everyone cheered.|The {folk} \
clapped.|]
"[You won|You did it|You ran well]," said {f}. "[I was too proud|I should not have laughed|I am sorry I laughed at \
you]." "[That is all right.|Let us run together tomorrow.|Will you teach me to run fast?]" said {h}.
<end>
""",
    ),
    # Learning something hard.
    Plot(
        draws={
            "skill fail": [
                ("ride a bike", "fell off"),
                ("swim", "swallowed water"),
                ("swim", "went under"),
                ("tie shoes", "made a knot"),
                ("whistle", "only blew air"),
                ("skate on the ice", "slipped and fell"),
                ("climb the rope", "slid down again"),
                ("read", "mixed up the letters"),
                ("play the drum", "dropped the sticks"),
                ("catch a ball", "missed it"),
                ("jump over the stream", "fell into the water"),
                ("fly a kite", "saw it fall to the ground"),
                ("dance", "tripped and fell"),
                ("count to one hundred", "forgot what came next"),
            ]
        },
        beats="""
<open>
All {h_his} friends could {skill}, but {h} could not. {h_he} [wanted|wished] to {skill} more than anything.
<when>, {h} tried [it|to {skill}]. But {h_he} {fail}. [{f} laughed.|It hurt a little.|"I will never learn it," \
{h_he} said.]
{h} tried again, and {h_he} {fail} again. <feelbad>
"[I cannot {skill}|It is too hard|I give up]!" said {h}.
{h_his} {a} [saw it|sat down next to {h_him}]. "[I could not {skill} at first|Nobody can do it the first time|When I \
was small, I {fail} many times too]," {a_he} said. "[Try a little every day|Do not give up|I will help you]."

So {h} tried [every day|each morning|again and again]. [Monday|On the first day] {h_he} {fail}. [Tuesday|The next \
day] it was [a little better|not so bad]. [{h_his} {a} helped {h_him}.|{f} showed {h_him} how.|]
Then, <when>, {h} [did it|could do it]! {h_he} did not {skill} for long, but {h_he} could {skill}!
"Look, {A}! [I can do it|I can {skill}|Look at me]!" <say> {h}. <feel>
{h_his} {a} was <proud>. "[You see|I knew it]," {a_he} said. "[You did not give up|You tried and tried|Practice \
helps]."
~The next day {h} <saw> little {f}, who could not {skill}. "[I will help you|I could not do it at first, too]," said \
{h}.
<end>
""",
    ),
    # Snow.
    Plot(
        draws={
            "nose": _words("carrot, stone, red apple, pine cone, nut, potato"),
            "eyes": _words("two black stones, two buttons, two nuts, two coins, two pieces of coal"),
        },
        beats="""
<open>
[One winter morning|One cold day|When {h} woke up], everything was white. It had snowed [in the night|all night]!
"Snow, snow!" <say> {h}. {h_he} put on {h_his} {c} [coat|boots|scarf] and [ran out|went outside]. [The snow was deep \
and soft.|It was so quiet.|{h_he} made the first steps in the snow.]
{f} came too. "Let us make a snowman!" said {f}. They [rolled|made] a big ball, a [smaller|middle] ball and a little \
ball.
It got a {nose} for a nose and {eyes} for eyes. {h} gave it {h_his} {c} [hat|scarf]. [It looked <glad>.|"Now it is \
not cold," {h_he} said.|]
~They threw snowballs[ and laughed| until their {hands} were cold|]. [One hit {f} on the nose.|One hit the {spot}.|]

<suddenly> {h} <saw> a {n} in the snow. It was cold and [hungry|could not find food]. [It looked at the {nose}.|]
"[Poor {n}!|It needs food.|What can we give it?]" said {f}. {h} [thought|looked around]. "[We can give it the \
{nose}|It can have my {d}]," said {h}.
They [put|left] [seeds and bread|some food|hay and {ds}] {out}. [The {n} ate and ate.|Soon the {n} was warm and \
full.|]
<then> {h_his} {a} called them in for [hot chocolate|warm milk|soup]. They sat by the [fire|stove] and [looked out \
at the snowman|felt warm again].
<end>
""",
    ),
    # A sick friend.
    Plot(
        draws={
            "ill": _words(
                "had a cold, had a fever, hurt {f_his} leg, had a bad cough, had a sore throat, hurt {f_his} foot"
            ),
            "bring": [
                "a pot of soup",
                "a basket of {ds}",
                "a jar of honey",
                "a {c} flower",
                "a book with pictures",
                "a warm blanket",
            ],
        },
        beats="""
<open>
<when>, {h} [waited for {f}|went to play with {f}|waited {pi}], but {f} did not come. [{h} waited a long time.|{h} \
was alone.|]
"[Where is {f}|Why is {f} not here]?" {h} asked {h_his} {a}. "{f} is sick. {f_he} {ill} and must stay in bed," said \
{h_his} {a}.
<feelbad> <think>
"[I will visit {f}|{f} must be so bored|I want to help {f_him}]," said {h}. {h_his} {a} gave {h_him} {bring} [to \
take along|for {f}].
{h} <walked> to the house of {f}. <onway>

{f} lay in bed. {f_he} {ill} and looked [pale|<tired>|<sad>]. But when {f_he} saw {h}, {f_he} smiled. "[You \
came|Hello, {h}|I am so glad you are here]!" {f_he} said.
{h} gave {f_him} {bring}. "[This will help you get well|This is for you|{A} sent this]." [{f} was <glad>.|{f} sat \
up.|]
{h} [told a story|told {f_him} what happened at school|sang a silly song|played a quiet game with {f_him}], and {f} \
laughed. [After a while {f_he} fell asleep.|The time went fast.|]
{h} came back [every day|the next day]. [After a week|Soon] {f} was [well|better] again. "[You made me well|The best \
thing was you, {h}|A friend is better than a doctor]," said {f}.
<then> they went {pt} together. <end>
""",
    ),
    # A kite and the wind.
    Plot(
        beats="""
<open>
{h} had a {c} kite[ with a long tail| that {h_his} {a} had made|]. But there was no wind. [{h} waited and \
waited.|The kite lay on the ground.|]
"[Wind, where are you?|Please blow, wind!|When will the wind come?]" <say> {h}.
<when>, the wind came. It [shook the trees|blew the leaves around|took the hat of the {job}]. {h} <walked> {pt} with \
the kite.
Up, up, up it went! The {c} kite [danced|flew] [high in the sky|over the trees|with the birds]. <feel>
~"[May I hold it|Can I try]?" asked {f}. {h} gave {f_him} the string[, and they took turns|].

Then the wind blew [harder|too hard]. Snap! The string broke, and the kite [flew away|was gone]. [{h} ran after \
it.|"My kite!" cried {h}.]
{h} [ran|went] past the {spot}. {h_he} looked up in every tree. At last {h_he} <saw> something {c} [in the top of a \
tree|on the roof of the {spot}|far up in the branches].
It was too high for {h}. [{h} asked the {job} for help.|The {job} came by.] "[I have a ladder|I can get it|That is \
easy for me]," said the {job}. [{f} held the ladder.|]
Soon {h} had the kite back. It had a [hole|small hole], but {h_his} {a} [could fix it|put a {c} patch on it|made it \
new].
"Thank you," said {h} to the {job}. "[I will use a stronger string|Next time I will hold on tight]." <end>
""",
    ),
    # Fishing, and the fish that speaks.
    Plot(
        draws={
            "wish": [
                "a {t}",
                "a big {d}",
                "a warm coat for {h_his} {a}",
                "a friend",
                "a house for the {n}",
                "nothing at all",
                "rain for the dry fields",
            ]
        },
        beats="""
<open>
<when>, {h} went fishing with {h_his} {a}. They sat [by the river|by the lake|in a little boat|on the old bridge] \
and waited. [Nothing happened.|It was quiet.|<nature>]
<suddenly> something pulled [at the line|hard]! {h} [pulled too|held on tight]. It was a [big|little|shiny] {c} fish!
"Please let me go," said the fish. "[I have little ones at home|I am too small to eat|My family waits for me]. [I \
will give you a wish|If you let me go, I will help you one day]."
{h} looked at the fish. {h_he} [was hungry|had waited all day]. But the fish looked <sad>. "[Should we let it \
go|What do you think], {A}?" asked {h}. "[You caught it, so you decide|Do what your heart says]," said {h_his} {a}.
{h} put the fish back into the water. "Go home, {c} fish," {h_he} said. [The fish jumped with joy.|Splash, and it \
was gone.]

[The next day|A week later|Some days later] {h} [fell into|lost {h_his} {to} in] the water. [It was deep.|{h} was \
<scared>.] Then the {c} fish came and [pushed {h_him} back|helped {h_him}|brought everything back to the shore].
"You were kind to me. Now [I help you|I can be kind to you]," said the fish. "And what do you wish for?" {h} \
thought. "I wish for {wish}," {h_he} said. The fish laughed and [swam away|waved its tail].
When {h} came home, [{h_his} wish had come true|{h_his} {a} could not believe the story|they laughed about it for a \
long time].
""",
    ),
    # Tidying up.
    Plot(
        draws={"lost": ["the {t}", "the {t}", "{h_his} {c} shoe", "the key", "{h_his} book", "{h_his} other sock"]},
        beats="""
<open>
{h} never [cleaned up|put {h_his} things away]. There were [toys|books|socks|stones and sticks] [everywhere|on the \
floor|under the bed and on the bed].
"Please clean your room, {h}," said {h_his} {a}. "[Later|Not now|I am busy]," said {h}. [{h_he} went out to \
play.|{h_he} played on.|]
<when>, {f} [came|asked {h}] to [play|go {pt}]. "[Bring {lost}|We need {lost}]," said {f}. {h} went to get it. But \
where was {lost}?
{h} looked {in}. {h_he} looked everywhere. [{h_he} fell over a box.|A tower of things fell down.|{h_he} stepped on a \
toy. "Ouch!"] {lost} was not there.
"[I cannot find anything in this room|It is gone|What a mess]!" said {h}. <feelbad>

"[I can help you|Let us clean up together|It goes faster with two]," said {f}. They put the [books on the shelf|toys \
in the box] and the [clothes in the drawer|shoes by the door]. [They sang while they worked.|They found a {d} that \
was very old.|They found {num} lost socks.|]
And there, {in}, was {lost}! "[Here it is|I found it|There you are]!" <say> {h}.
Now the room was [clean|nice and clean]. {h_his} {a} [came in|opened the door] and [could not believe it|was \
<glad>]. "[What a lovely room!|Did you do this?]" {a_he} asked.
"[Now I can find everything|It is easier to play in a clean room]," said {h}. From then on, {h_he} put \
[everything|{h_his} things] back [every evening|in its place].
<end>
""",
    ),
    # Eating too much.
    Plot(
        beats="""
<open>
{h} loved {ds}. {h_he} could eat {ds} [all day|in the morning and at night]. <when>, {h_his} {a} [made|brought home] \
a big [bowl|plate|basket] of {ds}.
"[You may have one|Take one and leave the rest|These are for the party tonight]," said {h_his} {a}, and [went \
out|left the room].
{h} ate one. It was <tasty>. [{h_he} looked at the others.|They smelled so good.] "[One more will not hurt|Nobody \
will see it|Just one more]," {h_he} thought.
{h} ate one more, and one more, and one more. Soon [the bowl was empty|there was only one left|all the {ds} were \
gone]!
Then {h_his} tummy [hurt|began to hurt]. "[Ouch,|Oh, oh,|Oh no!]" said {h}. {h_he} [lay down|could not move|held \
{h_his} tummy].

{h_his} {a} came back. "Where are the {ds}?" {a_he} asked. "[In my tummy|I ate them all]," said {h} <softly>. "[And \
now it hurts|I feel sick|I am sorry]."
{h_his} {a} [shook {a_his} head|did not shout]. {a_he} gave {h_him} [warm tea|water] and [put a blanket on \
{h_him}|sat with {h_him}]. "[Too much of a good thing is not good|Now there is nothing for {f} and the others]," \
{a_he} said.
The next day {h} [helped|wanted to help]. {h_he} and {h_his} {a} made new {ds}. {h} took them to {f}. "[I ate yours \
yesterday|These are for you]," {h_he} said.
{h} ate only one this time, and it [was the best of all|tasted better than all the others].
""",
    ),
    # A picnic and the uninvited.
    Plot(
        draws={"thief": _words("ants, birds, mice, squirrels, monkeys, ducks, bees, goats")},
        beats="""
<open>
<when>, {h}, {f} and {h_his} {a} went {pt} for a picnic. They had bread, {ds} and [milk|juice|lemonade|cheese] in a \
basket. <onway>
They [put|laid] a {c} blanket on the grass {out}. [It was a lovely place.|<nature>]
"First let us [play|swim|run to the {spot}]," said {h}. They left the basket on the blanket and went to play. [They \
played for a long time.|They laughed and ran.|]
When they came back, the {ds} were gone! "Who took our {ds}?" <say> {f}. [The basket was open.|There was only a \
little bread left.|]

{h} <saw> something small. There was a line of [crumbs|little steps] on the ground. {h} and {f} followed it [around \
the {spot}|through the grass|behind a rock]. There were the {thief}! They were eating the {ds}.
"Those are our {ds}!" said {f}. {f_he} was angry. But {h} [laughed|saw that some were very small]. "[Look, they are \
hungry too|They have babies to feed|They have a picnic too]," said {h}.
"[We still have bread|We can share|There is enough for all]." So they all ate together: {h}, {f}, {h_his} {a} and \
the {thief}.
~On the way home {f} said, "[Next time we bring more {ds}|It was funny after all|I never had a picnic with {thief} \
before]."
<end>
""",
    ),
    # A key and a box.
    Plot(
        draws={
            "inside": [
                "an old letter",
                "a {t}",
                "a map",
                "a picture of {h_his} {a} as a child",
                "a tiny music box",
                "seeds",
                "another, smaller box",
                "gold coins",
                "a dried flower",
            ],
            "keyplace": ["{out}", "{out}", "in the pocket of an old coat", "in the mouth of a big fish", "in a nest"],
        },
        beats="""
<open>
<when>, {h} <saw> an old box {in}. It was [made of wood|{c}|dusty|heavy], and it was locked. {h} [shook it|turned it \
around|put {h_his} ear on it]. Something was inside!
"What is in the box?" {h} asked {h_his} {a}. "I do not know. [Nobody has the key|The key was lost long ago|It was \
here before us]," said {a_he}.
{h} wanted to know. {h_he} told {f}. "[Let us find the key|I will help you look|A secret! I love secrets]," said {f}.
They looked {in}. They looked near the {spot}. [They asked the {job}.|They asked a {n}.|] [No key.|Nobody knew \
anything.]

[Days went by.|They almost gave up.|It got late.] Then {f} <saw> something that [shone|was shiny] {keyplace}. It was \
a little {c} key!
{h} and {f} ran [home|back to the box]. {h} put the key in the lock. [It was stiff.|{h_his} {hand} shook.|] Click! \
The box opened.
Inside was {inside}. "[Oh|Look|How wonderful]!" <say> {h}. They [looked at it for a long time|could not believe \
it|showed it to {h_his} {a}].
{h_his} {a} [smiled|had tears in {a_his} eyes]. "[I remember now|My {a} gave it to me when I was small|I looked for \
it all my life]," {a_he} said. <end>
""",
    ),
    # Helping someone old.
    Plot(
        draws={
            "load": [
                "a heavy bag",
                "a big basket of {ds}",
                "a pile of wood",
                "two buckets of water",
                "a sack of flour",
                "a heavy box",
            ]
        },
        beats="""
<open>
<when>, {h} was on {h_his} way {pt}. {h_he} wanted to [play with {f}|play with the {t}|see the boats]. <onway>
Near the {spot} {h_he} <saw> an old [woman|lady|neighbor]. She carried {load}. She walked [slowly|step by step] and \
had to [stop|rest] often.
{h} [stopped|slowed down]. "[Can I help you?|That looks heavy. May I help?|Let me carry that.]" {h_he} asked. "[But \
you want to play|Oh, that is kind of you|You are so small]," said the old woman.
"[I can play later|I am strong|It is not far]," said {h}. [Together they carried|{h} took] {load} to her house. It \
was [hard|heavy], but {h} did not stop.
~On the way the old woman told {h} a [funny|long|sad] story about [a {n}|the sea|her brother|the time when she was \
young].

At the house the old woman said, "[Wait a moment|Come in]." She gave {h} a [<tasty> {d}|cup of milk|piece of cake]. \
[A {n} slept by the fire.|There was a clock that sang.|It was warm and smelled of {ds}.]
"[You have a good heart|You made my day|Few {folk} are like you]," she said. "Come back when you like."
{h} came [too late to play|late], and {f} asked, "[Where were you|Why are you so late]?" {h} told {f_him} about the \
old woman and {load}.
"[Next time I will come too|Let us visit her together|I want to help too]," said {f}. And so they did.
<end>
""",
    ),
    # Paint everywhere.
    Plot(
        draws={
            "mix": [
                "blue and yellow made green",
                "red and yellow made orange",
                "red and blue made purple",
                "red and white made pink",
                "black and white made gray",
            ],
            "pic": [
                "a house",
                "a big tree",
                "{f}",
                "{h_his} {a}",
                "a {n}",
                "the sea",
                "a {c} horse",
                "the moon",
                "a ship",
            ],
        },
        beats="""
<open>
<when>, {h} got a box of paints. There was [red, blue and yellow|black and white and many others]. {h} wanted to \
paint {pic}.
{h} sat at the table and [began|painted]. [First came the sky, then the ground.|{h_he} worked for a long time.] It \
looked [good|very good].
{f} came in [fast|with a {n}]. Bump! {f_he} [hit|ran into] the table, and the paint [fell over|ran over the picture].
"Oh no! My picture of {pic}!" cried {h}. <feelbad> "I did not mean to do that. I am sorry," said {f}.

{h} was angry at first. {h_he} [wanted to shout|turned away]. Then {h_he} looked at the paper <again>. {mix}! "Look, \
{f}," {h_he} said. "{mix}!"
"[It looks like a rainbow,|It is like magic,|How did that happen?]" said {f}. They [mixed more colors|tried again \
with other colors]. [Soon their {hands} were full of paint.|There was paint on {f_his} nose.|]
Together they painted a new picture of {pic}. It was [better|more beautiful] than the first. {h_his} {a} [hung|put] \
it [on the wall|over the table].
"Who painted this?" {a_he} asked. "We did!" said {h} and {f}. "[An accident helped us|And the paint helped too]." \
<end>
""",
    ),
    # Taking turns.
    Plot(
        draws={"ride": _words("swing, slide, pony, seesaw, little boat, bike, sled, rocking horse, tire on a rope")},
        beats="""
<open>
There was a new {ride} {pi}. All the {folk} wanted to [try|ride] it. {h} was [first|there before all the others].
{h} [went up and down|had so much fun|laughed and laughed]. "My turn!" said {f}. "[No, I am not done|One more \
time|Not yet]," said {h}.
{f} waited. {h} went again, and again. "Now it is my turn," said {f}. "[No|Go away]! The {ride} is mine," said {h}.
{f} [walked away|went away with the others]. [They played another game near the {spot}.|They played with a {t}.] {h} \
heard them laugh.
Now {h} had the {ride} all for {h_self}. But it was not [fun|so much fun] any more. [It was quiet.|Nobody watched.] \
<think>

{h} [got off|jumped down] and <walked> to {f}. "I am sorry," {h_he} said. "[You can have a turn now|I was \
selfish|The {ride} is for everyone]."
"[Thank you|All right]," said {f}. [They made a line.|They counted to twenty for each turn.|] First {f} had a turn, \
then {h}, then the others.
{h} [pushed {f}|helped the little ones|counted out loud]. "Higher!" <say> {f}. [Everyone laughed.|It was more fun \
together.|]
"[It is better when we take turns|Now it is fun again]," said {h}. <end>
""",
    ),
    # A visit to grandma, and a letter.
    Plot(
        draws={
            "way": _words("by train, by bus, on foot, in a cart, in an old car, by boat, on a pony, on {h_his} bike"),
            "far": _words(
                "by the sea, in the city, over the hills, behind the forest, on an island, in another village"
            ),
        },
        beats="""
<open>
<when>, a letter came for {h}. It was from {h_his} [grandma|grandpa|cousin {f}|friend {f}], who lived {far}. \
"[Please come and visit me|I miss you|The {ds} are ripe. Come and see me]," said the letter.
"[Can I go|May I go there], {A}?" asked {h}. "[Yes|Of course|If you are careful], you can go {way}," said {h_his} {a}.
{h} packed [a bag|a {c} bag]. {h_he} took [a {d}|some bread], {h_his} {t} and a [warm coat|blanket]. Then {h_he} \
went {way}.
From there {h} could see [cows and sheep|the river|mountains with snow|many little houses]. <nature> [{h} had never \
been so far from home.|]
~A {n} [sat next to {h_him}|came along for a while]. "Where are you going?" it asked. "I am going to visit someone \
who lives {far}," said {h}.

At last {h} was there. The [house|little house] {far} had a {c} door. The door opened. "{h}! [You came|How big you \
are|I am so glad]!"
They [ate {ds}|picked {ds}|baked a pie|went for a walk] and [told stories|sang old songs|looked at old pictures]. \
{h} slept in a [soft|big|small] bed under the roof. [At night {h_he} could hear the wind.|The stars were bright.|]
After {num} days {h} had to go home {way}. "[I will write to you|I will come back|Come and visit us too]," {h_he} \
said.
At home {h} told {h_his} {a} everything. <end>
""",
    ),
    # The pet that ran away.
    Plot(
        draws={
            "pet": _words("dog, cat, rabbit, hen, goat, duck, pony, parrot, turtle, hamster, pig"),
            "petname": _words("Spot, Biscuit, Rusty, Muffin, Shadow, Button, Tiger, Cloud, Ginger, Sunny, Cookie"),
            "reason": [
                "the gate was open",
                "a loud noise scared it",
                "it smelled {ds}",
                "it wanted to see the world",
                "nobody had played with it",
            ],
        },
        beats="""
<open>
{h} had a {pet} named {petname}. {petname} was {c} and [liked {ds}|slept at the foot of the bed|followed {h} \
everywhere].
<when>, {reason}, and {petname} ran away. {h} came home and called, "{petname}! {petname}!" But no {pet} came.
<feelbad> "[{petname} is gone|My {pet} is gone]!" {h} told {h_his} {a}. "[We will look for it|It cannot be far]," \
said {h_his} {a}.
{h} looked {in}. {h_he} looked {out}. {h_he} asked {f}. "Did you see a {c} {pet}?" "[No, but I will help you look|I \
saw something {c} near the {spot}]," said {f}.
~They asked the {job} too. "[A {c} {pet}? It went {pt}|I saw it this morning. It went {pt}]," said the {job}.

{h} took [a {d}|some {ds}] and went {pt}. "{petname}! [I have a {d} for you|Come home|Here, {petname}]!" {h_he} \
called. [It was quiet.|They listened.]
Then they heard a [small|soft] sound {out}. There was {petname}! The {pet} [sat there and could not get out|was wet \
and cold|slept next to a {n}|ran to {h}].
"{petname}! [I was so afraid|There you are|I missed you]!" said {h}, and held the {pet} tight. [{petname} licked \
{h_his} face.|{petname} ate the {d}.|]
At home {h} [closed the gate|gave {petname} food and water|made a new bed for {petname}]. "[I will take better care \
of you|Do not run away again|Tomorrow we will play all day]," {h_he} said. <end>
""",
    ),
    # The moon and the stars.
    Plot(
        draws={
            "try": [
                "climbed up the highest hill",
                "climbed on the roof",
                "jumped as high as {h_he} could",
                "put one chair on another",
                "threw a rope up into the sky",
                "asked the owl to fly up",
                "built a tower of boxes",
            ],
            "sky": _words("moon, moon, brightest star, little star"),
        },
        beats="""
<open>
[Every night|At night] {h} looked at the {sky}. "I want to [have|touch|hold] the {sky}," {h_he} told {h_his} {a}. \
"[That is very far|Nobody can do that|Try it]," said {a_he}, and smiled.
[One night|One evening|On a {w} night], {h} {try}. [{h_he} put out {h_his} {hand}.|{h_he} reached up.] But the {sky} \
was still [too far|far away|too high].
"[Come down, {sky}!|Why can I not reach you?]" <say> {h}. The {sky} [said nothing|only shone|looked down].
{f} [heard it|came by]. "What are you doing?" {f_he} asked. "I want the {sky}," said {h}. "[I will help|Let us try \
together]," said {f}. Together they tried again, but they [could not reach it|fell down in the grass].

They were <tired> and sat down by the [pond|lake|well]. {h} looked into the water. There was the {sky}! It \
[shone|lay|danced] in the water, right at {h_his} feet.
"[It came down to us|Look, {f}|It is here]!" said {h} <softly>. {h} touched the water with one {hand}. The {sky} \
broke into a hundred little lights, and then it was whole again.
"[Now I have touched the {sky}|It is for everyone|It came to say good night]," said {h}. [{f} laughed.|They sat \
there for a long time.|]
{h} went home. "I touched the {sky}," {h_he} told {h_his} {a}. [{a_he} put {h_him} to bed.|"Good night, {h}," said \
{a_he}. "Good night, {sky}," said {h}.]
""",
    ),
    # Building and building again.
    Plot(
        draws={
            "build from": [
                ("tower", "blocks"),
                ("tower", "stones"),
                ("house", "boxes"),
                ("castle", "sand"),
                ("bridge", "sticks"),
                ("tree house", "boards"),
                ("wall", "stones"),
                ("raft", "logs"),
                ("nest", "straw"),
                ("tent", "blankets"),
                ("dam", "mud and sticks"),
            ],
            "ruin": [
                "the wind blew it down",
                "a {n} ran into it",
                "a big wave came",
                "the rain washed it away",
                "it was too high and fell",
                "{f} stepped on it",
            ],
        },
        beats="""
<open>
<when>, {h} wanted to build a {build} of {from}. {h_he} [got|took] many {from} and began {pi}. [It was to be the \
biggest {build} of all.|"I do not need help," {h_he} said.|]
{h} worked all [morning|day]. The {build} grew [bigger and bigger|higher and higher]. [{h_he} was <proud>.|{f} \
watched.|]
Then {ruin}. Crash! The {build} was [gone|only a heap of {from}].
"[All that work for nothing|My {build}|It is not fair]!" <say> {h}. <feelbad>
~{h} [kicked the {from}|wanted to go home].

{f} sat down next to {h_him}. "[We can build it again|Let us try once more|It was a good {build}]," {f_he} said. \
"[This time we make it stronger|Two can do more than one|I can hold the {from}]."
<think> "[You are right|All right|Yes], [let us start with a strong bottom|let us put it {out}|let us make it \
better]," said {h}.
{h} [carried|brought] the {from}, and {f} [put them in place|held everything]. [They made it wide at the \
bottom.|They looked at how the {n} did it.|They worked slowly.|] In the evening the new {build} was done.
Again {ruin}. But no! This time the {build} [stood|did not fall|was strong]. "Hooray!" <say> {h} and {f}.
~{h_his} {a} came to see it. "[What a fine {build}|You did not give up]," {a_he} said. <end>
""",
    ),
    # On a farm.
    Plot(
        draws={
            "beast gives": [
                ("cow", "milk"),
                ("hen", "eggs"),
                ("sheep", "wool"),
                ("bee", "honey"),
                ("goat", "milk"),
                ("duck", "eggs"),
                ("horse", "rides"),
            ],
            "need": _words("hungry, thirsty, lonely, cold, afraid of the dog"),
            "fix": [
                "played a song for it",
                "brought it fresh hay",
                "told it a story",
                "gave it a {d}",
                "sat with it",
                "brought it clean water",
            ],
        },
        beats="""
<open>
<when>, {h} went to [help on|visit] the farm[ of {h_his} uncle|]. There were cows, hens, sheep and a {n}. {h} [got \
up early|put on {h_his} boots|fed them all].
The farmer was worried. "The {beast} does not give {gives} any more," he said. "[I do not know why.|What is wrong \
with it?|It was fine last week.]"
{h} went to the {beast}. It stood {out} and looked <sad>. "[What is wrong, {beast}|Why do you give no {gives}]?" \
asked {h} <softly>.
{h} looked at it for a long time. "I think it is {need}," {h_he} said. "{need}? [I had so much work|I did not see \
that|I forgot]," said the farmer.

So {h} {fix}. {h_he} came back [every day|each morning]. [The {beast} began to follow {h}.|The {beast} looked \
better.|] {f} [helped too|came along].
And then, <when>, the {beast} gave {gives} again! [More than ever before!|The farmer could not believe it.] "[You \
did it,|How did you do that?|You understand animals,]" said the farmer.
"[It only wanted some love|It was {need}, that was all|You just have to look]," said {h}.
The farmer gave {h} [a basket of {ds}|some of the {gives}|a {c} hat]. {h} took it home to {h_his} {a}. <end>
""",
    ),
    # A magic helper and a choice.
    Plot(
        draws={
            "being": _words("fairy, little man, talking owl, giant, dragon, witch, wizard, old turtle, kind ghost"),
            "magic": _words("stone, seed, ring, bell, mirror, feather, cup, hat, lamp, key"),
            "deed": [
                "sang it to sleep",
                "gave it {h_his} {d}",
                "helped it over the river",
                "pulled a thorn from its foot",
                "found its lost shoe",
                "was not afraid of it",
            ],
        },
        beats="""
<open>
<when>, {h} <saw> a {being} {out}. It was [crying|stuck|all alone|very old]. [{h} was <scared> at first.|It had a \
{c} coat.|]
{h} was kind and {deed}. The {being} [smiled|was surprised]. "[Nobody was ever so kind to me|You have a good heart], \
{h}," it said. "Take this magic {magic}. [It can do one wish|You can wish for one thing|It works only one time]."
{h} ran home with the {magic}. What should {h_he} wish for? [A mountain of {ds}?|A house of gold?|A {t}?] {h_he} \
could not decide.
~"Wish for [toys|{ds}|gold]," said {f}. "Wish for [a pony|wings|a castle]," said the {job}.

Then {h} saw {h_his} {a}. {a_he} [was sick|worked so hard|was <tired>|had a cough and could not sleep]. {h} did not \
think any more. {h_he} held the {magic} and said, "I wish that {h_his} {a} is well and happy."
The {magic} [shone|began to shine {c}|sang]. Then it was just a {magic} again. {h_his} {a} [stood up|opened {a_his} \
eyes] and laughed. "[I feel so well!|What happened?|I feel young again!]" {a_he} said.
{h} told {a_him} about the {being} and the {magic}. <hugs> "[You could wish for anything, and you wished for me|You \
are my magic]," {a_he} said.
<end>
""",
    ),
    # A warning that was not heard.
    Plot(
        draws={
            "rule bad": [
                ("touch the hot stove", "burned {h_his} {hand}"),
                ("go on the thin ice", "fell into the cold water"),
                ("pull the tail of the dog", "had to run away from it"),
                ("eat the red berries", "got a bad tummy ache"),
                ("climb the old tree", "fell and hurt {h_his} knee"),
                ("play with the bees", "was stung on the nose"),
                ("go out without a coat", "got wet and cold"),
                ("open the gate", "let all the sheep run out"),
                ("run on the wet stones", "slipped and fell"),
                ("play near the road", "was nearly hit by a cart"),
                ("swim in the deep water", "had to be pulled out"),
            ]
        },
        beats="""
<open>
{h} [did not like to listen|always wanted to try everything]. "Do not {rule}, {h}," said {h_his} {a}. "[It is not \
safe|You will be sorry|Something bad could happen]." "[I know, I know,|Why not?|Yes, yes,]" said {h}.
<when>, {h_his} {a} [was not there|went to the market|was busy]. {h} and {f} [were alone|played outside]. "[Shall I \
{rule}?|I will {rule},|Look, I am not afraid,]" said {h}.
"No! [You must not {rule}|{h}, do not do it|It is not allowed]," said {f}. But {h} [laughed|did not listen].
{h} did it, and {h_he} {bad}. "[Ouch|Help|Oh no|Ow]!" cried {h}. <feelbad>

{f} ran [for help|to get {h_his} {a}]. {h_his} {a} came <quickly>. {a_he} [helped {h_him}|took care of {h_him}] and \
[dried {h_his} tears|put {h_him} in a chair].
"[What did you do|What happened]?" {a_he} asked. "I wanted to {rule}," said {h} <softly>.
{h_his} {a} was not angry. "[I told you so because I love you|A rule can keep you safe|Now you know why I said \
that]," {a_he} said.
"[I will listen next time|I am sorry, {A}|You were right]," said {h}. Then {h_he} said to {f}, "[Thank you for \
getting help|You were right too|You are a good friend]."
[From that day on|Since then], {h} did not {rule} again. [And when a little one wanted to {rule}, {h} said, "Do not \
do it!"|]
""",
    ),
    # Something special for school.
    Plot(
        draws={
            "show": [
                "a shell that sounds like the sea",
                "{h_his} {t}",
                "a snail in a jar",
                "an old coin",
                "a bird nest",
                "a stone with a star in it",
                "a leaf as big as a plate",
            ],
            "fear": ["laugh at me", "not like it", "not listen"],
        },
        beats="""
<open>
On [Monday|Tuesday|Wednesday|Thursday|Friday] everyone was to bring something special to school. {h} thought about \
it all [evening|weekend].
{h} did not have [anything new|a fine toy|much]. "[Bring what you love|What do you like to look at|It does not have \
to be big]," said {h_his} {a}. So {h} chose {show}.
In the classroom the teacher said, "[Good morning, everyone|Sit down, please|Who wants to begin]." {f} had brought a \
[train that could whistle|golden crown|book with a lock|real drum]. Everyone said, "[Oh|Wow]!"
{h} [held|hid] {show} under the [table|desk|chair]. "They will {fear}," {h_he} thought. {h_his} [knees|{hands}] shook.

Then the teacher called, "{h}, it is your turn." {h} [stood up|walked to the front] <softly>. "This is {show}," \
{h_he} said. "I [found it|got it] {pi}. [My {a} was with me that day|It was raining that morning|I look at it when I \
cannot sleep]."
[The class was quiet.|Nobody said a word.|Someone in the back whispered.] Then {f} [raised|put up] {f_his} {hand}. \
"[May I see it|Can I hold it|Where can I find one]?" {f_he} asked. [Soon everyone wanted to see it.|They all came \
closer.|]
"[You told us a real story|That was very good, {h}|Thank you for showing us]," said the teacher. {h} [sat \
down|smiled] and felt [tall|warm inside|ten feet tall].
After school {h} and {f} [looked at {show} together|traded: {f} held {show}, and {h} held the gift of {f}|walked \
home side by side]. <end>
""",
    ),
    # A new baby at home.
    Plot(
        draws={
            "babyname": _words("Mimi, Bo, Lulu, Teo, Nini, Jojo, Kiki, Dodo"),
            "calm": [
                "sang a song about {ds}",
                "made a funny face",
                "shook the keys",
                "danced like a duck",
                "told the story of the {n}",
                "gave the baby {h_his} {t}",
            ],
        },
        beats="""
<open>
There was a new baby in the {home}. The baby was called {babyname}. {babyname} was very small and [slept all \
day|cried a lot|had no hair|had tiny fingers].
Everyone came to see {babyname}. [{f} came with a gift.|The neighbor brought a blanket.|Grandma brought soup.] \
Nobody [looked at|talked to] {h}. "Not now, {h}. The baby is [asleep|hungry]," said {h_his} {a}.
<feelbad> "[Nobody loves me any more|I wish there was no baby|They have forgotten me]," {h} thought. {h_he} \
[hid|sat] {in} with {h_his} {t}.

Then {babyname} began to cry. {h_his} {a} [carried the baby up and down|gave the baby milk|rocked the cradle], but \
{babyname} cried [louder and louder|and cried]. "[I do not know what to do|What is wrong, little one|I am so \
tired]," said {h_his} {a}.
{h} came out. {h_he} [looked into|stood by] the cradle and {calm}. {babyname} stopped crying. [The baby looked at \
{h} with big eyes.|{babyname} grabbed {h_his} finger.|{babyname} laughed for the very first time!]
"Look at that! [You are the only one who can do it|The baby loves you|How did you do that, {h}]," said {h_his} {a}. \
{a_he} took {h} [on {a_his} lap|into {a_his} arms]. "[You were my first baby|There is room in my heart for two|I \
love you as much as before]."
{h} [smiled|leaned against {a_him}]. "When {babyname} is bigger, we will share my {to}," {h_he} said. <end>
""",
    ),
    # Ready for winter.
    Plot(
        draws={
            "stored": _words("nuts, grain, apples, dry leaves, wood, hay, seeds, honey, potatoes"),
            "fun": [
                "danced in the sun",
                "sang songs",
                "lay in the grass",
                "swam in the lake",
                "slept until noon",
                "played the fiddle",
            ],
        },
        beats="""
<open>
All summer long {h} gathered {stored}. [Every morning {h_he} filled a sack.|{h_he} worked until the sun went down.] \
{f} {fun}. "[Why do you work so hard|Come and play|The summer is so long], {h}," {f_he} said.
"[Winter will come|I will play when I am done|Soon it will be cold]," said {h}. "[You should gather {stored} \
too|Help me, and then we can play]." But {f} only laughed and {fun}.
[The days grew short.|The leaves turned red and fell.|The swallows flew away.] Then the first snow fell. [The lake \
froze.|The wind howled around the house.|Everything was white and still.]

{f} was cold and hungry. {f_he} looked for {stored} {out}, but there was nothing left. [{f_his} stomach \
growled.|{f_his} teeth chattered.|] At last {f_he} knocked at the door of {h}. Knock, knock.
"Who is there?" called {h}. "It is me, {f}. [I have nothing to eat|I am so cold|You were right]. I {fun} all \
summer," said {f}. [{f_he} looked at the ground.|{f_his} voice was very thin.]
{h} opened the door. <think> "[I have enough for two|Come in, sit by the fire|A friend is a friend]," {h_he} said. \
{h} gave {f_him} {stored} and a [bowl of hot soup|warm blanket|cup of tea].
"[Next summer I will help you|Thank you. I will never forget this|And I can sing for you in the winter]," said {f}. \
And {f_he} did. [All winter they sat by the fire and told stories.|In the spring they worked together, and then they \
played together.]
""",
    ),
    # The music.
    Plot(
        draws={
            "instrument sound": [
                ("drum", "boom, boom"),
                ("flute", "tweet, tweet"),
                ("violin", "squeak, squeak"),
                ("trumpet", "toot, toot"),
                ("horn", "honk, honk"),
                ("piano", "plink, plonk"),
                ("guitar", "twang, twang"),
            ]
        },
        beats="""
<open>
{h} got an old {instrument} from {h_his} {a}. {h_he} played it [morning, noon and night|in the {room}|at breakfast]. \
"{sound}," went the {instrument}.
"[Please, not in here|My ears hurt|Not so loud], {h}," said {h_his} {a}. {h} went {pt}. "{sound}," went the \
{instrument}. "[Stop that noise|You woke my chicks|I cannot sleep]!" cried [a hen|the {job}|{f}].
{h} <walked> from one place to another. [Nobody wanted to hear the {instrument}.|Everyone covered their ears.] \
<feelbad> {h_he} put the {instrument} {in}.

<when>, fog came in from the [sea|lake|river]. It was so thick that nobody could see [a thing|the path|their own \
feet]. {f} was out in a [boat|small boat]. "Help! [I cannot see the shore|Where is the land]!" {f_he} called.
They lit a lamp, but the fog [swallowed|hid] the light. They shouted, but it was too far. <think> Then {h} ran and \
got the {instrument}. "{sound}! {sound}!" {h_he} played as loud as {h_he} could.
Out in the fog {f} [turned {f_his} head|listened]. "That is {h}! I know that {instrument}," {f_he} said, and rowed \
toward the sound. "{sound}," went the {instrument}, [closer and closer|again and again]. At last the boat bumped \
against the [shore|sand|dock].
"[Your {instrument} saved me|I heard you|You brought me home]," said {f}. [Everyone cheered.|Everyone shook {h_his} \
{hand}.] From then on, nobody [complained|said a bad word] about the {instrument}, [and {h} learned to play real \
songs|but {h} played a little more quietly|not even the {job}].
""",
    ),
    # By the sea.
    Plot(
        draws={
            "creature": _words("crab, starfish, young seal, turtle, little whale, dolphin, fish, octopus, sea horse"),
            "treasure": _words("pearl, shell, green glass stone, piece of coral, golden ring, smooth white pebble"),
        },
        beats="""
<open>
<when>, {h} and {h_his} {a} went to the sea. The waves were [high|small and gentle|green and white]. [Gulls cried \
overhead.|The sand was hot.|A ship with white sails was far out.]
{h} [built a castle with towers|ran in and out of the waves|collected shells in a bucket|dug a deep hole]. \
<suddenly> {h_he} <saw> a {creature} between the rocks. The [tide|water] had gone out, and the {creature} [could not \
get back|lay in a small pool|was stuck on dry sand].
"[Please help me|The sun is too hot for me|I cannot breathe here]," the {creature} seemed to say. {h} called {h_his} \
{a}. "[It must go back into the sea|It will dry out|We must be quick]," {a_he} said.

{h} filled {h_his} [bucket|hat] with water and [poured it over|kept wet] the {creature}. {h_his} {a} dug a \
[channel|path] in the sand. They [dug and poured|worked for an hour|did not stop]. At last a big wave came up and \
[reached|lifted] the {creature}.
It [swam in a circle|splashed|turned around once, as if to say thank you]. Then it was gone. [{h} waved for a long \
time.|"Goodbye!" called {h}.]
The next morning there was something [in the sand|on the rock] at the same place. It was a {treasure}! "[Who put it \
there|Where does it come from]?" asked {h_his} {a}. {h} looked out at the sea. "[I think I know|The {creature} did \
not forget us|It is a thank you]," {h_he} said.
{h} kept the {treasure} [in a box by the bed|in {h_his} pocket] for ever. <bed>
""",
    ),
    # Nothing but soup.
    Plot(
        draws={"first": _words("stone, nail, button, shoe, feather, spoon")},
        beats="""
<open>
<when>, a [hungry|tired] traveler came to the village. He had nothing but a pot and a {first}. He knocked on every \
door. "[We have no food|Go away|There is nothing here]," said the people. [They locked their doors.|Everyone hid \
their bread.]
Only {h} was curious. "What do you do with a {first}?" {h_he} asked. "I make {first} soup," said the traveler. "It \
is the best soup in the world." [He winked.|He made a fire and filled the pot with water.] {h} laughed. "[Can I \
watch?|Soup from a {first}? That cannot be!]"
The traveler put the {first} in the pot and stirred. "Mmm. [It is good, but a carrot would make it better|It only \
needs a little salt]," he said. {h} ran home and [got|brought] it.

{f} came to look. "What are you cooking?" "{first} soup. [A potato would make it thicker|If only we had an onion]," \
said the traveler. {f} brought one. Then the {job} brought [cabbage|beans|a piece of meat], and {h_his} {a} brought \
[corn|peas|milk].
[The soup bubbled and smelled wonderful.|Soon the whole village stood around the pot.] They brought tables and \
[bread|bowls|cheese], and everyone ate. [It was the best soup they had ever tasted.|Even the {job} asked for more.]
"And all that from a {first}!" said {f}. {h} thought about it. "[It was not the {first}|The {first} only made us \
share|We made it together]," {h_he} said. The traveler smiled and gave {h} the {first}. "[Now you know the \
secret|Keep it for hungry days]," he said, and went on his way.
""",
    ),
    # A loose tooth, a haircut, a shot: a small fear.
    Plot(
        draws={
            "dread after": [
                ("a loose tooth", "a gap in {h_his} mouth"),
                ("an itchy spot", "a {c} bandage"),
                ("a splinter", "a tiny mark"),
                ("hair that was far too long", "a short new haircut"),
                ("a sore ear", "a bottle of medicine with a spoon"),
            ],
        },
        beats="""
<open>
{h} had {dread}. [It had been like that for days.|It bothered {h_him} at breakfast and at bedtime.] "[We must do \
something about it|Let us go and see the doctor|It will only take a minute]," said {h_his} {a}.
"No!" said {h}. "[It will hurt|I do not want to|Leave me alone]." {h_he} [crawled|climbed] {in} and [would not come \
out|covered {h_his} face|held {h_his} breath].
{f} came by. "[Why are you hiding|Are you in there, {h}]?" {f_he} asked. "I have {dread}, and I am <scared>," said \
{h}. "[I had that too|My brother had that last year]. [I counted to ten|I held my bear|I thought of {ds}], and then \
it was over," said {f}.

<think> "[Will you come with me|Can I hold your {hand}]?" asked {h}. "[Sure|Of course|Yes]," said {f}. So they all \
went together. In the waiting room there were [fish in a tank|old magazines|toys in a box].
"[Open wide|Look at the lamp|Sit still]," said a [friendly|calm] voice. {h} [squeezed|held] the {hand} of {f} and \
counted. "One, two, three, four..." "[Done|All finished|That was it]!"
"Already?" said {h}. [It had only tickled a bit.|It had hurt less than a bee sting.] Now {h} had {after}. {h_he} \
looked in the mirror and [laughed|grinned|turned {h_his} head left and right].
"[I was not so brave at first|It was not bad at all|Next time I will not hide]," said {h}. {h_his} {a} bought [ice \
cream|lemonade|a balloon] for both of them. <end>
""",
    ),
    # The message that went astray.
    Plot(
        draws={
            "news": [
                "the bridge is broken",
                "a storm is coming",
                "there is a party tonight",
                "the bread is ready",
                "the baby is born",
                "the river is rising",
                "school is closed tomorrow",
            ]
        },
        beats="""
<open>
<when>, the {job} said to {h}, "[Run and tell everyone|Please take a message to {f}]: {news}." "{news}," {h} \
repeated, so that {h_he} would not forget. {h_he} <walked> [up the street|across the field|along the river].
"{news}, {news}," {h} said to {h_self}. <onway> <suddenly> a {n} [jumped|ran] across the road. {h} [tripped and \
fell|stopped to look|chased it around a tree]. When {h_he} [stood up|came back], the words were gone from {h_his} \
head!
"Was it about [the moon|a cow|a pair of shoes|cheese]?" {h_he} asked {h_self}. "[No, that is not it|It was \
important, I know that]!" <feelbad>

{h} sat down on a [fence|step|stump]. <think> "When I lose a thing, I go back the way I came," {h_he} said. "[Maybe \
it works with words too|I will look for the words]." {h_he} went back, step by step: past the {spot}, over the \
[ditch|bridge|hill], to the place of the {n}.
[There {h_he} closed {h_his} eyes.|There {h_he} heard the {job} shout far away.] And the words came back. "{news}!" \
{h} cried. {h_he} ran [all the way|without stopping|faster than the wind].
"{f}! {news}!" {h} called. "[Oh! We must tell the others|I am glad you came|Just in time]," said {f}. Together they \
told [the whole village|everyone they met|the teacher, the baker and the miller].
"[You can trust {h} with a message|Well done|You did not give up]," said the {job} in the evening. {h} \
[blushed|grinned]. "[Next time I will write it on my {hand}|Next time I will not chase a {n}]," {h_he} said.
""",
    ),
    # A mystery: who did it?
    Plot(
        draws={
            "trace culprit": [
                ("white feathers", "the goose"),
                ("muddy little prints", "the puppy"),
                ("a trail of crumbs", "a family of mice"),
                ("a long red thread", "the kitten"),
                ("wet spots", "the frog"),
                ("gray hairs", "the old donkey"),
                ("black feathers", "the crow"),
                ("small bite marks", "the rabbit"),
            ],
            "gone": [
                "the cheese",
                "one {c} sock",
                "the cherry pie",
                "the spoons",
                "{h_his} {t}",
                "the last {d}",
                "the rope of the bell",
            ],
            "motive": [
                "wanted to make a soft bed",
                "was hungry",
                "wanted to play",
                "was cold",
                "had three babies to feed",
                "liked things that smelled of {h}",
            ],
        },
        beats="""
<open>
Something strange happened one [morning|night|evening]. {gone} was gone! "Did you take it?" {h_his} {a} asked {h}. \
"No, I [did not|have not touched it]," said {h}. "[It was here last night|That is odd|Things do not walk away]," \
said {h_his} {a}.
"I will find out," said {h}. {h_he} put on [a big hat|{h_his} {c} coat] and took a [glass|notebook|flashlight], like \
a real detective. {f} wanted to help. "[I will be your partner|Two pairs of eyes see more]," {f_he} said.
They [searched the floor|looked {in}|crawled around on their knees]. <suddenly> {f} whispered, "Look! There are \
{trace}." {trace} [by the door|near the window|on the stairs]! "[A clue|Now we are getting somewhere|Follow me]," \
said {h}.

They followed the trail [out of the house|down the steps|through a hole in the wall], [past the {spot}|across the \
yard] and [behind the shed|around the corner|into the barn]. There were {trace} again. "[Shh|Quiet|Do not make a \
sound]," said {h}. They [peeked|looked] {out}.
There sat {culprit}, and next to it was {gone}. "So it was you!" said {f}. {culprit} [looked up|did not run \
away|looked guilty]. "[Wait|Do not be angry], {f}," said {h}. "I think it {motive}."
{h} [brought an old blanket and some food|made a better place for it|stroked it and talked to it]. Then they [took \
{gone} home|got {gone} back].
"Case closed," said {h}. "It was {culprit}. It {motive}." {h_his} {a} laughed [until {a_his} sides hurt|out loud]. \
"[You are a fine detective.|What would I do without you two?]" {a_he} said.
""",
    ),
    # A visit from the circus, and a small job.
    Plot(
        draws={
            "act": _words(
                "juggle, walk on the rope, ride on one wheel, swallow fire, jump through a ring, dance on a horse, do "
                "magic tricks"
            ),
            "trouble solve": [
                ("the clown had a cold", "put on the red nose and fell over {h_his} own shoes"),
                ("the tent had a hole", "sewed and sewed with a big needle"),
                ("the elephant would not get up", "whispered something into its ear"),
                ("the drummer had lost his drum", "beat on a bucket with two spoons"),
                ("the lights went out", "held a lantern high"),
                ("the monkey had run away", "climbed up a pole with a banana"),
            ],
        },
        beats="""
<open>
The circus came to [town|the village]! There were [wagons in every color|posters on the walls|flags and music]. {h} \
wanted to see someone {act}. But a ticket cost [two coins|more than {h} had].
{h} went to the [big tent|back of the tent] and [looked through a hole|listened]. Inside, people ran back and forth. \
"[What a disaster|What are we going to do|The show begins in an hour]!" shouted the [ringmaster|director] with the \
tall hat. For {trouble}.
"Excuse me," said {h}. "[Maybe I can help.|I have an idea.|May I try something?]" The [ringmaster|tall man] looked \
down. "You? [Well, why not|You are rather small|Nobody else has an idea]," he said.

So {h} {solve}. [Everyone held their breath.|The musicians stopped and stared.] And it worked! \
"[Marvelous|Wonderful|Splendid]!" cried the ringmaster. "You have saved the show! [Ask for anything you want.|How \
can I thank you?]"
{h} did not have to think. "[Two tickets, please|I would like two seats]," {h_he} said. "One for me and one for \
{f}." That night they sat in the very first row. They saw someone {act}, and they [clapped until their {hands} \
hurt|ate popcorn|laughed and gasped].
At home {h} tried to {act}, too. [Crash went a plate.|It was much harder than it looked.|The {n} watched and was not \
impressed.] "[Perhaps you should practice outside|Bravo]," said {h_his} {a}. <bed>
""",
    ),
)
