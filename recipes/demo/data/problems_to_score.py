"""The stories of the dev and held-out word problems. Importing this module registers them."""

from word_problems import Draw, Problem, template


@template("dev")
def stickers_from_packs(d: Draw) -> Problem:
    x, y, things, a, b, c = d.name(), d.name(), d.things(), d.int(3, 9), d.int(5, 12), d.int(2, 14)
    return Problem(
        f"{x} opens {a} packs with {b} {things} in each pack. {x} gives {c} {things} to {y}. "
        f"How many {things} does {x} keep?",
        (f"The packs hold {a} * {b} = {a * b} {things}.", f"{x} keeps {a * b} - {c} = {a * b - c} {things}."),
        a * b - c,
    )


@template("dev")
def taxi_fare(d: Draw) -> Problem:
    x, start, km, price, tip = d.name(), d.int(3, 8), d.int(4, 20), d.int(2, 4), d.int(1, 5)
    return Problem(
        f"A taxi costs ${start} plus ${price} per km. {x} rides {km} km and gives a tip of ${tip}. "
        "How many dollars is that?",
        (
            f"The ride costs {price} * {km} = {price * km} dollars.",
            f"In all {x} pays {start} + {price * km} + {tip} = {start + price * km + tip} dollars.",
        ),
        start + price * km + tip,
    )


@template("dev")
def tiles_on_a_floor(d: Draw) -> Problem:
    x, a, b, broken = d.name(), d.int(6, 20), d.int(5, 15), d.int(2, 12)
    return Problem(
        f"{x} lays tiles on a floor in {a} rows of {b}. On the way {broken} tiles break. "
        f"How many tiles did {x} need to buy?",
        (
            f"The floor takes {a} * {b} = {a * b} tiles.",
            f"With the broken ones it is {a * b} + {broken} = {a * b + broken} tiles.",
        ),
        a * b + broken,
    )


@template("dev")
def runs_laps(d: Draw) -> Problem:
    x, y, laps, metres, more = d.name(), d.name(), d.int(3, 10), d.int(100, 400, 50), d.int(1, 4)
    return Problem(
        f"One lap is {metres} metres. {x} runs {laps} laps and {y} runs {more} laps more. "
        f"How many metres does {y} run?",
        (
            f"{y} runs {laps} + {more} = {laps + more} laps.",
            f"That is {laps + more} * {metres} = {(laps + more) * metres} metres.",
        ),
        (laps + more) * metres,
    )


@template("dev")
def fish_in_tanks(d: Draw) -> Problem:
    place, a, b, n = d.place(), d.int(3, 8), d.int(6, 15), d.int(2, 5)
    moved = a * b // n
    return Problem(
        f"The {place} has {a} tanks with {b} fish each. All fish move into {n} big tanks, as evenly as possible. "
        "How many fish are in a big tank at least?",
        (f"There are {a} * {b} = {a * b} fish.", f"{a * b} / {n} is at least {moved}."),
        moved,
    )


@template("dev")
def pocket_money_left(d: Draw) -> Problem:
    x, things, a, n, price, bus = d.name(), d.things(), d.int(50, 90), d.int(2, 6), d.int(2, 6), d.int(2, 9)
    return Problem(
        f"{x} gets ${a} on {d.day()}, buys {n} {things} for ${price} each and pays ${bus} for the bus. "
        f"How many dollars can {x} still spend?",
        (
            f"The {things} cost {n} * {price} = {n * price} dollars.",
            f"With the bus it is {n * price} + {bus} = {n * price + bus}.",
            f"{x} can still spend {a} - {n * price + bus} = {a - n * price - bus} dollars.",
        ),
        a - n * price - bus,
    )


@template("dev")
def candles_for_tables(d: Draw) -> Problem:
    x, tables, each, have = d.name(), d.int(8, 20), d.int(3, 6), d.int(5, 22)
    return Problem(
        f"{x} wants {each} candles on each of {tables} tables and already has {have} candles. "
        "How many candles are missing?",
        (
            f"The tables need {tables} * {each} = {tables * each} candles.",
            f"There are {tables * each} - {have} = {tables * each - have} missing.",
        ),
        tables * each - have,
    )


@template("dev")
def temperature_change(d: Draw) -> Problem:
    a, b, c = d.int(14, 30), d.int(2, 8), d.int(1, 6)
    return Problem(
        f"On {d.day()} it is {a} degrees at noon. By evening it is {b} degrees colder, "
        f"and at night {c} degrees colder again. "
        "How many degrees is it at night?",
        (f"In the evening it is {a} - {b} = {a - b} degrees.", f"At night it is {a - b} - {c} = {a - b - c} degrees."),
        a - b - c,
    )


@template("held_out")
def jars_of_honey(d: Draw) -> Problem:
    x, hives, each, price = d.name(), d.int(3, 10), d.int(3, 9), d.int(4, 12)
    return Problem(
        f"{x} keeps {hives} hives. Each hive gives {each} jars of honey, and a jar sells for ${price}. "
        f"How many dollars does {x} earn?",
        (
            f"The hives give {hives} * {each} = {hives * each} jars.",
            f"They sell for {hives * each} * {price} = {hives * each * price} dollars.",
        ),
        hives * each * price,
    )


@template("held_out")
def parking_lot(d: Draw) -> Problem:
    place, rows, each, cars = d.place(), d.int(4, 12), d.int(8, 20), d.int(5, 30)
    return Problem(
        f"The car park of the {place} has {rows} rows with room for {each} cars each. {cars} cars are parked. "
        "How many more can park?",
        (
            f"There is room for {rows} * {each} = {rows * each} cars.",
            f"So {rows * each} - {cars} = {rows * each - cars} more can park.",
        ),
        rows * each - cars,
    )


@template("held_out")
def postcards_sent(d: Draw) -> Problem:
    x, y, a, b, stamp = d.name(), d.name(), d.int(3, 12), d.int(2, 8), d.int(1, 3)
    return Problem(
        f"{x} sends {a} postcards and {y} sends {b} more than {x}. Each postcard needs ${stamp} for the stamp. "
        "How many dollars do the stamps cost in all?",
        (
            f"{y} sends {a} + {b} = {a + b} postcards.",
            f"Together they send {a} + {a + b} = {2 * a + b}.",
            f"The stamps cost {2 * a + b} * {stamp} = {(2 * a + b) * stamp} dollars.",
        ),
        (2 * a + b) * stamp,
    )


@template("held_out")
def bricks_in_a_wall(d: Draw) -> Problem:
    x, per_day, days, total = d.name(), d.int(20, 60), d.int(3, 8), d.int(500, 900, 10)
    return Problem(
        f"A wall takes {total} bricks. {x} lays {per_day} bricks a day for {days} days. "
        "How many bricks are still to lay?",
        (
            f"{x} has laid {per_day} * {days} = {per_day * days} bricks.",
            f"There are {total} - {per_day * days} = {total - per_day * days} to lay.",
        ),
        total - per_day * days,
    )


@template("held_out")
def film_and_snacks(d: Draw) -> Problem:
    x, n, ticket, snack = d.name(), d.int(2, 7), d.int(6, 14), d.int(2, 6)
    return Problem(
        f"{x} goes to the cinema with {n} friends. Everyone buys a ticket for ${ticket} and a snack for ${snack}. "
        "How many dollars do they spend?",
        (
            f"There are {n} + 1 = {n + 1} people.",
            f"Each spends {ticket} + {snack} = {ticket + snack} dollars.",
            f"In all they spend {n + 1} * {ticket + snack} = {(n + 1) * (ticket + snack)} dollars.",
        ),
        (n + 1) * (ticket + snack),
    )


@template("held_out")
def lost_and_found(d: Draw) -> Problem:
    x, things, a, b, c = d.name(), d.things(), d.int(30, 80), d.int(8, 20), d.int(2, 7)
    return Problem(
        f"{x} had {a} {things}, lost {b} of them at the {d.place()} and found {c} again. "
        f"How many {things} does {x} have now?",
        (
            f"After the loss there are {a} - {b} = {a - b} {things}.",
            f"With the found ones there are {a - b} + {c} = {a - b + c}.",
        ),
        a - b + c,
    )


@template("held_out")
def plants_in_beds(d: Draw) -> Problem:
    x, beds, each, sick = d.name(), d.int(4, 12), d.int(6, 15), d.int(2, 15)
    what = d.pick("roses", "tulips", "beans", "onions", "carrots")
    return Problem(
        f"{x} plants {each} {what} in each of {beds} beds. {sick} of them do not grow. How many {what} grow?",
        (
            f"{x} plants {beds} * {each} = {beds * each} {what}.",
            f"So {beds * each} - {sick} = {beds * each - sick} of them grow.",
        ),
        beds * each - sick,
    )


@template("held_out")
def water_bottles_trip(d: Draw) -> Problem:
    people, each, days, spare = d.int(3, 9), d.int(2, 4), d.int(2, 6), d.int(3, 10)
    return Problem(
        f"{people} people go on a trip of {days} days. Each drinks {each} bottles of water a day, "
        f"and they take {spare} spare bottles. "
        "How many bottles do they take?",
        (
            f"Each day they drink {people} * {each} = {people * each} bottles.",
            f"In {days} days that is {people * each} * {days} = {people * each * days}.",
            f"With the spare ones it is {people * each * days} + {spare} = {people * each * days + spare} bottles.",
        ),
        people * each * days + spare,
    )


@template("held_out")
def quarter_of_the_class(d: Draw) -> Problem:
    quarter, late = d.int(5, 20), d.int(2, 9)
    what = d.pick("play chess", "sing in the choir", "learn French", "walk to school", "wear glasses")
    return Problem(
        f"There are {4 * quarter} children in a school. A quarter of them {what}, and {late} more join them later. "
        f"How many children {what} in the end?",
        (f"A quarter of {4 * quarter} is {quarter}.", f"In the end it is {quarter} + {late} = {quarter + late}."),
        quarter + late,
    )


@template("held_out")
def two_machines(d: Draw) -> Problem:
    a, b, hours, things = d.int(10, 40), d.int(10, 40), d.int(2, 9), d.things()
    return Problem(
        f"One machine makes {a} {things} an hour and another makes {b} an hour. "
        f"How many {things} do both make in {hours} hours?",
        (
            f"In one hour both make {a} + {b} = {a + b} {things}.",
            f"In {hours} hours they make {a + b} * {hours} = {(a + b) * hours}.",
        ),
        (a + b) * hours,
    )


@template("held_out")
def weeks_and_days(d: Draw) -> Problem:
    x, weeks, days = d.name(), d.int(2, 9), d.int(1, 6)
    what = d.pick("holiday", "course", "visit", "journey", "repair")
    return Problem(
        f"The {what} of {x} takes {weeks} weeks and {days} days. How many days is that?",
        (
            f"{weeks} weeks are {weeks} * 7 = {weeks * 7} days.",
            f"In all that is {weeks * 7} + {days} = {weeks * 7 + days} days.",
        ),
        weeks * 7 + days,
    )


@template("held_out")
def price_of_one(d: Draw) -> Problem:
    x, things, n, each, bag = d.name(), d.things(), d.int(3, 9), d.int(2, 12), d.int(1, 5)
    total = n * each + bag
    return Problem(
        f"{x} pays ${total} for {n} {things} and a bag. The bag costs ${bag}. "
        f"How many dollars does one of the {things} cost?",
        (f"The {things} cost {total} - {bag} = {n * each} dollars.", f"One costs {n * each} / {n} = {each} dollars."),
        each,
    )
