"""Words and templates of the everyday sentences: `{slot}` is filled from SLOTS (or with a number in words).

Some 700 words that people say every day, all letters often enough (q, x, z and j too).
"""

SLOTS: dict[str, list[str]] = {
    "name": (
        "Alice,Ben,Carla,David,Emma,Felix,Grace,Henry,Isabel,Jack,Julia,Kevin,Laura,Max,Maria,Nora,Oliver,"
        "Peter,Quinn,Rachel,Sam,Thomas,Victor,Wendy,Xavier,Zoe,Jason,James"
    ).split(","),
    "person": [
        "{name}",
        "{name}",
        "{name}",
        "my {kin}",
        "your {kin}",
        "Mister {surname}",
        "Doctor {surname}",
    ],
    "surname": "Smith,Jones,Baker,Johnson,Fox,Taylor,Quick,Young,Wright,King,Cooper".split(","),
    "kin": (
        "mother,father,sister,brother,uncle,aunt,boss,friend,neighbor,daughter,son,wife,husband,teacher"
    ).split(","),
    "city": (
        "London,Paris,Boston,Chicago,Berlin,Dublin,Madrid,New York,Texas,Tokyo,Zurich,Quebec,Mexico,Jersey,"
        "Oxford"
    ).split(","),
    "place": (
        "office,kitchen,airport,station,hotel,library,school,hospital,bank,museum,park,garden,beach,market,"
        "bridge,river,church,zoo,square,garage,restaurant"
    ).split(","),
    "room": "kitchen,bedroom,bathroom,hall,garage,living room,office,basement".split(","),
    "day": "Monday,Tuesday,Wednesday,Thursday,Friday,Saturday,Sunday".split(","),
    "month": ("January,February,March,April,May,June,July,August,September,October,November,December").split(
        ","
    ),
    "ordinal": (
        "first,second,third,fourth,fifth,sixth,seventh,eighth,ninth,tenth,eleventh,twelfth,thirteenth,"
        "fifteenth,eighteenth,twentieth,twenty first,twenty fifth,thirtieth,thirty first"
    ).split(","),
    "hour": "one,two,three,four,five,six,seven,eight,nine,ten,eleven,twelve".split(","),
    "minutes": (
        "five,ten,fifteen,twenty,twenty five,thirty,thirty five,forty,forty five,fifty,oh five,seventeen"
    ).split(","),
    "time": [
        "{hour} o'clock",
        "{hour} {minutes}",
        "{hour} {minutes}",
        "half past {hour}",
        "a quarter to {hour}",
        "a quarter past {hour}",
        "{hour} in the morning",
        "{hour} in the afternoon",
        "{hour} at night",
        "noon",
        "midnight",
    ],
    "date": [
        "{month} {ordinal}",
        "the {ordinal} of {month}",
        "{day}, {month} {ordinal}",
        "{month} {ordinal}, {year}",
    ],
    "when": [
        "today",
        "tomorrow",
        "tonight",
        "on {day}",
        "next {day}",
        "at {time}",
        "this evening",
        "next week",
        "in {small} minutes",
        "in {small} days",
        "on {date}",
        "right now",
        "after lunch",
        "before {time}",
        "every {day}",
    ],
    "past": [
        "yesterday",
        "last {day}",
        "last week",
        "{small} days ago",
        "an hour ago",
        "in {year}",
        "this morning",
    ],
    "food": (
        "bread,butter,cheese,soup,rice,pizza,salad,chicken,fish,beef,cake,eggs,apples,oranges,bananas,"
        "tomatoes,potatoes,beans,honey,sugar,salt,chocolate,onions,sausages,cookies"
    ).split(","),
    "drink": "water,milk,coffee,tea,orange juice,wine,hot chocolate,beer,apple juice".split(","),
    "amount": ["a glass of", "a bottle of", "a cup of", "{small} bottles of", "some more", "a little"],
    "thing": (
        "book,key,phone,ticket,letter,jacket,umbrella,bicycle,box,table,chair,window,door,radio,lamp,map,"
        "suitcase,blanket,guitar,violin,puzzle,watch,package,computer,picture,shirt,coat,hat,pencil,knife,"
        "bag,joystick"
    ).split(","),
    "device": "light,heater,radio,television,fan,oven,alarm,music,printer,camera,dishwasher".split(","),
    "animal": "dog,cat,horse,bird,rabbit,fox,mouse,cow,sheep,tiger,zebra,monkey,frog,ox,pig".split(","),
    "color": ("red,blue,green,yellow,black,white,brown,gray,purple,pink,orange,dark blue,light green").split(
        ","
    ),
    "adjective": (
        "big,small,old,new,heavy,broken,beautiful,cheap,expensive,empty,clean,dirty,quick,slow,warm,cold,"
        "lovely,quiet,loud,wet,dry,fresh,crazy,perfect,extra"
    ).split(","),
    "feeling": (
        "happy,sad,tired,hungry,thirsty,angry,busy,sick,fine,ready,late,early,lost,bored,excited,afraid,alone"
    ).split(","),
    "weather": "sunny,cloudy,windy,raining,snowing,freezing,very hot,quite cold,stormy,warm".split(","),
    "money": [
        "{tens} dollars",
        "{number} dollars",
        "{small} pounds",
        "{tens} cents",
        "{number} euros",
        "{small} dollars and {tens} cents",
        "a million dollars",
    ],
    "unit": (
        "miles,meters,pounds,pages,people,minutes,hours,days,years,boxes,degrees,percent,kilometers"
    ).split(","),
    "verb": (
        "open,close,find,bring,sell,buy,fix,move,clean,carry,paint,take,check,send,keep,wash,forget,borrow,"
        "return,show me,look at,drop,watch,choose"
    ).split(","),
    "did": ("found,bought,sold,lost,broke,fixed,saw,took,cleaned,sent,forgot,carried,dropped,borrowed").split(
        ","
    ),
    "activity": (
        "swimming,reading,cooking,dancing,running,singing,fishing,sleeping,working,driving,shopping,"
        "playing chess,playing football,painting,walking,writing,boxing,relaxing"
    ).split(","),
    "action": [
        "go home",
        "call {person}",
        "visit {city}",
        "buy some {food}",
        "wash the car",
        "walk the dog",
        "read a book",
        "take a break",
        "leave early",
        "write a letter",
        "cook dinner",
        "clean the {room}",
        "learn the {instrument}",
        "pay the bill",
        "fix the {thing}",
        "join us",
        "stay here",
        "wait outside",
        "catch the train",
        "go {activity}",
        "answer the question",
        "play a game",
        "take a quiz",
        "ask for help",
    ],
    "instrument": "piano,guitar,violin,saxophone".split(","),
    "vehicle": "train,bus,plane,boat,taxi,car,truck,ship".split(","),
    "song": "jazz,rock,the news,my favorite song,something quiet,the next track,the radio".split(","),
    "job": "nurse,farmer,lawyer,doctor,driver,writer,painter,engineer,cook,baker,pilot,musician".split(","),
    "body": "head,hand,arm,leg,foot,knee,back,tooth,eye,ear,nose,finger".split(","),
    "poss": "my,your,his,her,our,their,the,this,that".split(","),
    "subject": "I,you,we,they".split(","),
    "single": ["he", "she", "it", "{name}", "my {kin}", "the {job}"],
    "often": "always,never,often,sometimes,usually,really,still,almost never,just".split(","),
    "modal": "can,could,should,will,would,must,might,can't,won't,shouldn't,couldn't".split(","),
    "hello": ("hello,hi,good morning,good evening,hey,excuse me,thanks,okay,well,sorry,yes,no,listen").split(
        ","
    ),
    "noun": [
        "{thing}",
        "{adjective} {thing}",
        "{color} {thing}",
        "{animal}",
        "{adjective} {animal}",
        "{color} {thing}",
    ],
    "direction": "left,right,north,south,east,west,straight ahead,around,upstairs,downstairs".split(","),
    "relation": (
        "near,behind,in front of,next to,across from,inside,beside,far from,between the bank and"
    ).split(","),
}

TEMPLATES: list[str] = (
    """
{hello}, {name}.|{hello}, how are you {when}?|{hello}, my name is {name} {surname}.|I am {feeling} {when}.
Are you {feeling}, {name}?|{person} is {feeling} and {feeling}.|{subject} are not {feeling}.
Why is {person} so {feeling}?|Call {person} {when}.|Please call {person} at {time}.
Can you call {person} {when}?|My number is {digits}.|Dial {digits} please.|The code is {digits}.
Press {small} for {city}, or {small} for help.|Room {number} is on the {ordinal} floor.
What time is it in {city}?|It's {time}.|The time is {time}.|Wake me up at {time}.|Set an alarm for {time}.
Set a timer for {tens} minutes.|Remind me to {action} {when}.|Remind {person} to {action}.
The meeting is {when}.|The meeting with {person} is at {time}.|Move the meeting to {day} at {time}.
Let's meet at {time} {relation} the {place}.|See you {when}.|See you at {time}.|I will see {person} {when}.
{person} was born on {date}.|Today is {date}.|My birthday is on {date}.|What happened on {date}?
The {place} was built in {year}.|{name} moved to {city} in {year}.|We lived in {city} from {year} to {year}.
The {place} opens at {time} and closes at {time}.|Is the {place} open on {day}?|How much is the {noun}?
How much are the {food}?|The {noun} costs {money}.|That will be {money}, please.
I paid {money} for {poss} {noun}.|{person} owes me {money}.|Can you lend me {money} until {day}?
It's only {money}.|{number} plus {small} is {number}.|There are {number} {unit} in it.
It is {number} {unit} long.|Only {tens} percent of the people know.|The number is {number}.
I counted {number} {unit}.|Page {number}, please.|We need {small} more {unit}.
It was {number} {unit} from {city}.|Multiply {tens} by {small}.|What is {tens} times {small}?
Bus number {tens} goes to the {place}.|Turn on the {device}.|Turn off the {device} in the {room}.
Turn {direction} at the {place}.|Go {direction} for {number} meters.|Turn {direction} and go {direction}.
Play {song}.|Stop the {device}.|Play {song} in the {room}.|Switch the {device} off {when}.
Make the {device} louder.|Is the {device} on?|Set the {device} to {tens} degrees.|Open the {thing}, please.
Lock the door {when}.|Where is the {place}?|Where is {poss} {noun}?|How far is the {place} from the {place}?
Excuse me, where is the {place}?|The {place} is {relation} the {place}.
{poss} {thing} is {relation} the {thing}.|The {animal} is {relation} the {place}.
I would like {food} and {food}, please.|Do you have any {food}?|{amount} {drink}, please.
Could I have {amount} {drink}?|{person} doesn't eat {food}.|We need {food}, {food} and {food}.
Buy {food} and {drink} {when}.|The {food} and {food} taste {adjective}.|I don't like {food} with {food}.
Who ate the {food}?|Dinner is ready at {time}.|Add {food} to my shopping list.
{subject} {often} drink {drink} in the morning.|A table for {small} at {time}, please.
What would you like to drink?|{subject} {modal} {action} {when}.|{single} {modal} {action}.
{subject} {modal} {verb} {poss} {noun}.|{single} {modal} {verb} {poss} {noun} {when}.
{modal} {subject} {verb} the {noun}?|Would you {action} with {person}?|Don't {verb} {poss} {noun}.
Please {verb} the {noun} {when}.|{verb} {poss} {thing} and {verb} the {noun}.|I want to {action} {when}.
{name} wants to {action}.|I have to {action}.|Let's {action} {when}.|I think {person} {modal} {action}.
{subject} {often} {action} on {day}.|Who {modal} {action} {when}?|{subject} {did} {poss} {noun} {past}.
{single} {did} {poss} {noun} {relation} the {place}.|{person} {did} a {noun}.|Who {did} the {noun}?
I {did} it {past}.|They {did} {small} {color} boxes.|When did {person} visit {city}?
{person} didn't {action} {past}.|{person} likes {activity}.|I am {activity} with {person}.
{activity} is {adjective}, but {activity} is better.|Do you like {activity}?|What is {person} doing?
{subject} were {activity} {past}.|{single} was {activity} {relation} the {place}.|I'd rather go {activity}.
It is {weather} in {city} {when}.|It was {weather} {past}.|Will it be {weather} {when}?
What's the weather like in {city}?|It's {weather}, take {poss} {thing}.|The temperature is {tens} degrees.
The sky is {color} and the sea is {color}.|The {vehicle} to {city} leaves at {time}.
The {vehicle} from {city} is {small} minutes late.|We went to {city} by {vehicle}.
A ticket to {city}, please.|Is this the {vehicle} to the {place}?|Flight {number} to {city} is ready.
Take the {vehicle} to the {place}.|The {vehicle} stops {relation} the {place}.|We missed the last {vehicle}.
I'm on the {vehicle} to {city}.|How do I get to {city}?
The {color} {animal} jumps over the {adjective} {animal}.|Look at the {adjective} {animal}!
There is a {animal} in the {place}.|My {kin} has {small} {color} boxes.|We saw a {animal} at the zoo.
Is that a {animal} or a {animal}?|{name} has a {color} {animal}.|{person} is a {job}.
My {kin} works as a {job} in {city}.|She is the {ordinal} {job} in the {place}.
The {job} and the {job} met {past}.|{poss} {body} hurts.|Does your {body} hurt?
{person} hurt {poss} {body} {past}.|Close your eyes and raise your {body}.|What do you mean?|I don't know.
That's right.|That isn't what I said.|Could you say that again?|I didn't hear you.|Thank you very much.
You're welcome.|No problem.|Have a nice day.|Happy birthday, {name}!|Good night, {name}.|What's your name?
Where are you from?|I'm from {city}.|How old are you?|I'm {tens} years old.
{name} is {tens} and {name} is {tens}.|Never mind.|Yes, I'd love to {action}.|No, it's too {adjective}.
This one is {adjective}.|It's {adjective} and {adjective}.|Which {noun} is yours?
The {noun} isn't {adjective}.|{poss} {noun} was very {adjective}.|We've got a {adjective} {noun}.
There's a {noun} on the table.|I haven't seen {poss} {noun}.|Haven't you {did} the {noun} yet?
They're {relation} the {place}.|We'll be there {when}.|He's {feeling}.|She'll {action} {when}.
It doesn't work.|Send a message to {person}.|Read my messages.|Write an email to {name}.
Search for {noun} in {city}.|Cancel the {ordinal} order.|Delete the {ordinal} message.
Show me the way to {city}.|Who is next?|What is your question?|Zip up {poss} jacket.
The quiz has {small} questions.|Mix the {food} with {food}.|The {job} asked {small} questions.
{person} just won the {ordinal} prize.|The {job} fixed the {thing} in the {room}.
Take {small} boxes to the {room}.|Relax, it's only a {animal}.|Keep quiet in the {place}.
""".strip()
    .replace("\n", "|")
    .split("|")
)
