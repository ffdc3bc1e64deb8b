"""The stories of the base and train word problems. Importing this module registers them."""

from word_problems import Draw, Problem, template


@template("base")
def gives_some_away(d: Draw) -> Problem:
    x, y, things, a, b = d.name(), d.name(), d.things(), d.int(20, 90), d.int(2, 18)
    return Problem(
        f"{x} has {a} {things} and gives {b} of them to {y}. How many {things} does {x} have left?",
        (f"{x} starts with {a} {things}.", f"After giving away {b}, there are {a} - {b} = {a - b} left."),
        a - b,
    )


@template("base")
def boxes_of_things(d: Draw) -> Problem:
    x, things, a, b = d.name(), d.things(), d.int(3, 12), d.int(4, 20)
    return Problem(
        f"{x} buys {a} boxes. Each box holds {b} {things}. How many {things} does {x} buy?",
        (f"There are {a} boxes with {b} {things} each, so {a} * {b} = {a * b}.",),
        a * b,
    )


@template("base")
def shared_equally(d: Draw) -> Problem:
    x, things, n, each = d.name(), d.things(), d.int(3, 9), d.int(3, 15)
    return Problem(
        f"{x} shares {n * each} {things} equally among {n} friends. How many {things} does each friend get?",
        (f"Each friend gets {n * each} / {n} = {each} {things}.",),
        each,
    )


@template("base")
def two_collections(d: Draw) -> Problem:
    x, y, things, a, b = d.name(), d.name(), d.things(), d.int(10, 60), d.int(3, 25)
    return Problem(
        f"{x} has {a} {things}. {y} has {b} more {things} than {x}. How many {things} do they have together?",
        (f"{y} has {a} + {b} = {a + b} {things}.", f"Together they have {a} + {a + b} = {2 * a + b} {things}."),
        2 * a + b,
    )


@template("base")
def change_from_a_note(d: Draw) -> Problem:
    x, place, a, b = d.name(), d.place(), d.int(3, 22), d.int(4, 24)
    return Problem(
        f"At the {place}, {x} pays ${a} for lunch and ${b} for a gift with a $50 note. How many dollars come back?",
        (f"The lunch and the gift cost {a} + {b} = {a + b} dollars.", f"The change is 50 - {a + b} = {50 - a - b}."),
        50 - a - b,
    )


@template("base")
def pages_per_day(d: Draw) -> Problem:
    x, a, b, c = d.name(), d.int(8, 30), d.int(3, 9), d.int(5, 40)
    return Problem(
        f"{x} reads {a} pages a day for {b} days and has {c} pages still to read. How long is the book in pages?",
        (f"{x} has read {a} * {b} = {a * b} pages.", f"The book has {a * b} + {c} = {a * b + c} pages."),
        a * b + c,
    )


@template("base")
def distance_at_speed(d: Draw) -> Problem:
    x, speed, hours = d.name(), d.int(20, 90, 5), d.int(2, 8)
    return Problem(
        f"{x} drives at {speed} km per hour for {hours} hours. How many kilometres does {x} drive?",
        (f"The distance is {speed} * {hours} = {speed * hours} km.",),
        speed * hours,
    )


@template("base")
def passengers_on_a_bus(d: Draw) -> Problem:
    a, b, c = d.int(15, 45), d.int(2, 12), d.int(2, 14)
    return Problem(
        f"A bus leaves with {a} people. At the next stop {b} people get off and {c} get on. How many are on it now?",
        (
            f"After {b} get off there are {a} - {b} = {a - b}.",
            f"After {c} get on there are {a - b} + {c} = {a - b + c}.",
        ),
        a - b + c,
    )


@template("base")
def older_than(d: Draw) -> Problem:
    x, y, a, b = d.name(), d.name(), d.int(5, 30), d.int(2, 20)
    return Problem(
        f"{x} is {a} years old. {y} is {b} years older than {x}. How old will {y} be in 5 years?",
        (f"{y} is {a} + {b} = {a + b} years old now.", f"In 5 years {y} will be {a + b} + 5 = {a + b + 5}."),
        a + b + 5,
    )


@template("base")
def rows_of_chairs(d: Draw) -> Problem:
    a, b, place = d.int(5, 15), d.int(6, 16), d.place()
    c = d.int(3, a * b // 2)
    return Problem(
        f"The {place} sets up {a} rows of {b} chairs. {c} chairs stay empty. How many people are sitting?",
        (f"There are {a} * {b} = {a * b} chairs.", f"So {a * b} - {c} = {a * b - c} people are sitting."),
        a * b - c,
    )


@template("base")
def buys_two_kinds(d: Draw) -> Problem:
    x, t, u = d.name(), d.things(), d.things()
    a, p, b, q = d.int(2, 9), d.int(2, 9), d.int(2, 9), d.int(2, 12)
    return Problem(
        f"{x} buys {a} {t} for ${p} each and {b} {u} for ${q} each. How many dollars does {x} spend?",
        (
            f"The {t} cost {a} * {p} = {a * p} dollars.",
            f"The {u} cost {b} * {q} = {b * q} dollars.",
            f"In all {x} spends {a * p} + {b * q} = {a * p + b * q} dollars.",
        ),
        a * p + b * q,
    )


@template("train")
def saves_for_a_bike(d: Draw) -> Problem:
    x, week, n, have = d.name(), d.int(5, 20), d.int(4, 12), d.int(10, 60)
    what = d.pick("a bike", "a camera", "a guitar", "a tent", "a coat")
    return Problem(
        f"{x} has ${have} and saves ${week} every week for {what}. After {n} weeks {x} can pay for {what} exactly. "
        f"How many dollars does {what} cost?",
        (
            f"In {n} weeks {x} saves {week} * {n} = {week * n} dollars.",
            f"With the first {have} dollars that makes {week * n} + {have} = {week * n + have}.",
        ),
        week * n + have,
    )


@template("train")
def bags_with_leftover(d: Draw) -> Problem:
    x, things, size, n, rest = d.name(), d.things(), d.int(5, 12), d.int(4, 12), d.int(1, 4)
    total = size * n + rest
    return Problem(
        f"{x} packs {total} {things} into bags of {size}. How many {things} are left over?",
        (f"{n} bags take {n} * {size} = {n * size} {things}.", f"That leaves {total} - {n * size} = {rest}."),
        rest,
    )


@template("train")
def wages_with_bonus(d: Draw) -> Problem:
    x, rate, hours, days, bonus = d.name(), d.int(8, 25), d.int(3, 8), d.int(2, 6), d.int(10, 60, 5)
    return Problem(
        f"{x} earns ${rate} an hour and works {hours} hours a day for {days} days. "
        f"At the end {x} gets a bonus of ${bonus}. How many dollars does {x} earn?",
        (
            f"{x} works {hours} * {days} = {hours * days} hours.",
            f"That pays {hours * days} * {rate} = {hours * days * rate} dollars.",
            f"With the bonus it is {hours * days * rate} + {bonus} = {hours * days * rate + bonus}.",
        ),
        hours * days * rate + bonus,
    )


@template("train")
def half_then_some(d: Draw) -> Problem:
    x, y, things, half = d.name(), d.name(), d.things(), d.int(8, 40)
    b = d.int(2, half - 2)
    return Problem(
        f"{x} had {2 * half} {things}. {x} gave half of them to {y} and then lost {b}. "
        f"How many {things} does {x} have now?",
        (f"Half of {2 * half} is {half}.", f"After losing {b}, {x} has {half} - {b} = {half - b} {things}."),
        half - b,
    )


@template("train")
def perimeter_of_a_garden(d: Draw) -> Problem:
    x, a, b, price = d.name(), d.int(6, 30), d.int(4, 20), d.int(2, 9)
    return Problem(
        f"{x} puts a fence around a garden that is {a} metres long and {b} metres wide. "
        f"A metre of fence costs ${price}. "
        "How many dollars does the fence cost?",
        (
            f"The perimeter is 2 * ({a} + {b}) = {2 * (a + b)} metres.",
            f"The fence costs {2 * (a + b)} * {price} = {2 * (a + b) * price} dollars.",
        ),
        2 * (a + b) * price,
    )


@template("train")
def area_minus_pond(d: Draw) -> Problem:
    place, a, b = d.place(), d.int(8, 30), d.int(5, 20)
    pond = d.int(4, 36)
    return Problem(
        f"The lawn of the {place} is {a} metres long and {b} metres wide. A pond covers {pond} square metres of it. "
        "How many square metres of grass are there?",
        (f"The lawn is {a} * {b} = {a * b} square metres.", f"The grass is {a * b} - {pond} = {a * b - pond}."),
        a * b - pond,
    )


@template("base")
def eggs_of_hens(d: Draw) -> Problem:
    hens, each, days = d.int(4, 15), d.int(2, 5), d.int(2, 6)
    total = hens * each * days
    return Problem(
        f"A farm has {hens} hens. Each hen lays {each} eggs a week. How many eggs are there after {days} weeks?",
        (
            f"In one week the hens lay {hens} * {each} = {hens * each} eggs.",
            f"In {days} weeks they lay {hens * each} * {days} = {total} eggs.",
        ),
        total,
    )


@template("base")
def three_times_as_many(d: Draw) -> Problem:
    x, y, things, a, k = d.name(), d.name(), d.things(), d.int(5, 30), d.int(2, 5)
    return Problem(
        f"{x} collects {a} {things}. {y} collects {k} times as many. How many more {things} does {y} have than {x}?",
        (f"{y} has {k} * {a} = {k * a} {things}.", f"The difference is {k * a} - {a} = {k * a - a}."),
        k * a - a,
    )


@template("train")
def percent_off(d: Draw) -> Problem:
    x, percent, tens = d.name(), d.int(10, 50, 10), d.int(2, 20)
    price = tens * 10
    off = price * percent // 100
    what = d.pick("a jacket", "a lamp", "a radio", "a chair", "a watch")
    return Problem(
        f"{x} wants {what} that costs ${price}. On {d.day()} it is {percent} percent off. "
        f"How many dollars does {x} pay?",
        (f"{percent} percent of {price} is {off}.", f"{x} pays {price} - {off} = {price - off} dollars."),
        price - off,
    )


@template("train")
def average_of_three(d: Draw) -> Problem:
    x, mean, u, v = d.name(), d.int(20, 80), d.int(1, 9), d.int(1, 9)
    a, b, c = mean - u, mean + u + v, mean - v
    return Problem(
        f"{x} scores {a}, {b} and {c} points in three games. What is the average score?",
        (f"The total is {a} + {b} + {c} = {3 * mean} points.", f"The average is {3 * mean} / 3 = {mean}."),
        mean,
    )


@template("train")
def train_carriages(d: Draw) -> Problem:
    a, b, c = d.int(4, 12), d.int(20, 60), d.int(10, 90)
    return Problem(
        f"A train has {a} cars with {b} seats each. {c} seats are free. How many passengers are sitting on the train?",
        (f"The train has {a} * {b} = {a * b} seats.", f"So {a * b} - {c} = {a * b - c} seats are taken."),
        a * b - c,
    )


@template("train")
def recipe_scaled(d: Draw) -> Problem:
    x, cups, k, extra = d.name(), d.int(2, 6), d.int(3, 9), d.int(1, 5)
    what = d.pick("flour", "milk", "rice", "sugar", "oats")
    return Problem(
        f"A recipe needs {cups} cups of {what}. {x} makes it {k} times and spills {extra} cups. "
        f"How many cups of {what} does {x} use up?",
        (
            f"The recipe takes {cups} * {k} = {cups * k} cups.",
            f"With the spill it is {cups * k} + {extra} = {cups * k + extra}.",
        ),
        cups * k + extra,
    )


@template("train")
def tank_fills_and_leaks(d: Draw) -> Problem:
    rate, leak, hours = d.int(12, 40), d.int(2, 10), d.int(3, 12)
    return Problem(
        f"A tap pours {rate} litres an hour into a tank and {leak} litres an hour leak out. "
        f"How many litres are in the tank after {hours} hours?",
        (
            f"Each hour the tank gains {rate} - {leak} = {rate - leak} litres.",
            f"After {hours} hours it holds {rate - leak} * {hours} = {(rate - leak) * hours} litres.",
        ),
        (rate - leak) * hours,
    )


@template("train")
def ages_sum(d: Draw) -> Problem:
    x, y, z, a, b, k = d.name(), d.name(), d.name(), d.int(4, 15), d.int(2, 9), d.int(2, 4)
    return Problem(
        f"{x} is {a} years old. {y} is {b} years older than {x}, and {z} is {k} times as old as {x}. "
        "What is the sum of their ages?",
        (
            f"{y} is {a} + {b} = {a + b}.",
            f"{z} is {k} * {a} = {k * a}.",
            f"The sum is {a} + {a + b} + {k * a} = {2 * a + b + k * a}.",
        ),
        2 * a + b + k * a,
    )


@template("train")
def two_cyclists(d: Draw) -> Problem:
    x, y, u, v, hours = d.name(), d.name(), d.int(10, 25), d.int(8, 20), d.int(2, 6)
    return Problem(
        f"{x} and {y} start at the same place and ride in opposite directions, "
        f"{x} at {u} km per hour and {y} at {v} km per hour. "
        f"How many kilometres are between them after {hours} hours?",
        (
            f"Each hour they get {u} + {v} = {u + v} km further apart.",
            f"After {hours} hours it is {u + v} * {hours} = {(u + v) * hours} km.",
        ),
        (u + v) * hours,
    )


@template("train")
def tickets_adults_children(d: Draw) -> Problem:
    place, p, q, a, b = d.place(), d.int(8, 20), d.int(3, 7), d.int(2, 9), d.int(2, 12)
    return Problem(
        f"A ticket for the {place} costs ${p} for an adult and ${q} for a child. "
        f"A group has {a} adults and {b} children. "
        "How many dollars does the group pay?",
        (
            f"The adults pay {a} * {p} = {a * p} dollars.",
            f"The children pay {b} * {q} = {b * q} dollars.",
            f"The group pays {a * p} + {b * q} = {a * p + b * q} dollars.",
        ),
        a * p + b * q,
    )


@template("train")
def bakery_day(d: Draw) -> Problem:
    a, b, c = d.int(90, 160), d.int(10, 35), d.int(2, 20)
    what = d.pick("loaves", "rolls", "cakes", "pies", "buns")
    return Problem(
        f"A baker makes {a} {what}. In the morning {b} are sold, and in the afternoon {c} more than in the morning. "
        f"How many {what} remain?",
        (
            f"In the afternoon {b} + {c} = {b + c} {what} are sold.",
            f"In all {b} + {b + c} = {2 * b + c} are sold, so {a} - {2 * b + c} = {a - 2 * b - c} remain.",
        ),
        a - 2 * b - c,
    )


@template("base")
def books_on_shelves(d: Draw) -> Problem:
    x, shelves, each, n = d.name(), d.int(3, 9), d.int(8, 25), d.int(5, 30)
    return Problem(
        f"{x} has {shelves} shelves with {each} books each and {n} books on the floor. How many books does {x} have?",
        (
            f"On the shelves there are {shelves} * {each} = {shelves * each} books.",
            f"In all there are {shelves * each} + {n} = {shelves * each + n} books.",
        ),
        shelves * each + n,
    )


@template("train")
def hours_to_minutes(d: Draw) -> Problem:
    x, h, m = d.name(), d.int(1, 6), d.int(5, 55, 5)
    what = d.pick("practises the piano", "paints a wall", "works in the garden", "walks in the hills", "writes letters")
    return Problem(
        f"{x} {what} for {h} hours and {m} minutes. How many minutes is that?",
        (f"{h} hours are {h} * 60 = {h * 60} minutes.", f"In all that is {h * 60} + {m} = {h * 60 + m} minutes."),
        h * 60 + m,
    )


@template("base")
def team_points(d: Draw) -> Problem:
    x, a, b, c = d.name(), d.int(4, 12), d.int(3, 9), d.int(1, 6)
    return Problem(
        f"In a game a win gives 3 points and a draw gives 1 point. The team of {x} wins {a} games, "
        f"draws {b} and loses {c}. "
        "How many points does the team have?",
        (
            f"The wins give {a} * 3 = {3 * a} points.",
            f"The draws give {b} points, so the team has {3 * a} + {b} = {3 * a + b} points.",
        ),
        3 * a + b,
    )


@template("base")
def rope_pieces(d: Draw) -> Problem:
    x, n, piece, rest = d.name(), d.int(3, 12), d.int(4, 20), d.int(1, 3)
    what = d.pick("rope", "wire", "ribbon", "string")
    return Problem(
        f"{x} cuts {n} pieces of {piece} cm from a {what} and {rest} cm remain. How long was the {what} in cm?",
        (
            f"The pieces are {n} * {piece} = {n * piece} cm.",
            f"The {what} was {n * piece} + {rest} = {n * piece + rest} cm long.",
        ),
        n * piece + rest,
    )


@template("train")
def votes_counted(d: Draw) -> Problem:
    x, y, a, b, c = d.name(), d.name(), d.int(30, 120), d.int(5, 25), d.int(2, 15)
    return Problem(
        f"In a vote {x} gets {a} votes and {y} gets {b} fewer. {c} votes are empty. How many people voted?",
        (f"{y} gets {a} - {b} = {a - b} votes.", f"In all there are {a} + {a - b} + {c} = {2 * a - b + c} votes."),
        2 * a - b + c,
    )


@template("train")
def class_groups(d: Draw) -> Problem:
    girls, groups, size = d.int(6, 14), d.int(6, 10), d.int(3, 5)
    boys = groups * size - girls
    return Problem(
        f"A class has {girls} girls and {boys} boys. They make groups of {size}. How many groups are there?",
        (
            f"There are {girls} + {boys} = {groups * size} children.",
            f"They make {groups * size} / {size} = {groups} groups.",
        ),
        groups,
    )


@template("train")
def phone_plan(d: Draw) -> Problem:
    x, fee, price, n = d.name(), d.int(10, 40), d.int(2, 6), d.int(3, 15)
    return Problem(
        f"The phone plan of {x} costs ${fee} a month and ${price} for each extra hour. "
        f"In May {x} talks {n} extra hours. "
        f"How many dollars does {x} pay for May?",
        (
            f"The extra hours cost {n} * {price} = {n * price} dollars.",
            f"With the fee it is {fee} + {n * price} = {fee + n * price} dollars.",
        ),
        fee + n * price,
    )


@template("train")
def harvest_three_days(d: Draw) -> Problem:
    x, things, a, b = d.name(), d.pick("apples", "pears", "plums", "lemons", "oranges"), d.int(15, 60), d.int(4, 14)
    return Problem(
        f"{x} picks {a} {things} on the first day, and each day {b} more than on the day before. "
        f"How many {things} does {x} pick in three days?",
        (
            f"On the second day {x} picks {a} + {b} = {a + b}, on the third day {a + b} + {b} = {a + 2 * b}.",
            f"In all that is {a} + {a + b} + {a + 2 * b} = {3 * a + 3 * b}.",
        ),
        3 * a + 3 * b,
    )
