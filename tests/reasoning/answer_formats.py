"""How language models end a solution: endings in the styles of models and prompts that are in use, with a place for the answer.

`NUMBERS` take a number as it stands in prose, `FORMULAS` take LaTeX, `SINGLE` are whole cases with their correct answer, `REPORTED` those of public bug
reports: Math-Verify, lm-evaluation-harness, verl, open-instruct, OpenRLHF."""

NUMBERS = [   # (whose habit, ending)
    ("GSM8K", "She sold 48/2 = <<48/2=24>>24 clips in May.\nAltogether 48+24 = <<48+24=72>>72.\n#### {}"),
    ("GSM8K, few-shot", "There were 3 cars and 2 more arrive. 3 + 2 = 5. The answer is {}."),
    ("Minerva", "Final Answer: The final answer is ${}$. I hope it is correct."),
    ("MetaMath", "Therefore the total is twice as much.\n#### {}\nThe answer is: {}"),
    ("WizardMath", "Step 3: add 4 and 7.\nThe answer is: {}."),
    ("Llama 2 chat", "So, the total number of apples is {}.\n\nTherefore, the answer is {}."),
    ("Llama 3 Instruct", "## Step 3: Divide by the number of days.\nThe final answer is: $\\boxed{{{}}}$"),
    ("Llama 3 Instruct", "To find it, multiply 3 by 4.\n\nThe answer is {}."),
    ("Mistral Instruct", "So, in total Tom needs {} minutes."),
    ("Mixtral", "Adding 2 and 3 we see that the result is **{}**."),
    ("Qwen2.5", "Therefore, the total cost is:\n\n\\[\n\\boxed{{{}}}\n\\]"),
    ("Qwen2.5", "Thus, the number of ways is \\( {} \\)."),
    ("Qwen2.5-Math", "The final answer is $\\boxed{{{}}}$."),
    ("Qwen, ChatGLM", "So there are 4 boxes of 6.\n\n**Answer:** {}"),
    ("DeepSeek-R1", "<think>\nWait, 12 or 13? Let me check: \\boxed{{999}} can't be.\n</think>\n\n**Final Answer**\n\\boxed{{{}}}"),
    ("DeepSeek-R1", "<think>\nSo 7 + 8 is 15.\n</think>\n\nThe result is **{}**."),
    ("QwQ", "So that's it.\n\n**Final Answer**\n\n\\[ \\boxed{{{}}} \\]"),
    ("GPT-4", "So, Janet makes 9 * 2 in total, i.e. **${}** every day."),
    ("GPT-4o", "### Final Answer:\n**{}**"),
    ("GPT-4o", "**Final Answer:**\n\n{}"),
    ("GPT-4o", "The answer is:\n\n$$\n{}\n$$"),
    ("GPT-4o", "### Conclusion\nIt takes 3 steps, so the total is \\( \\mathbf{{{}}} \\)."),
    ("Claude", "Let me work through this:\n1. 3 bags\n2. 4 each\n\nThe answer is {}."),
    ("Claude", "<answer>{}</answer>"),
    ("R1-zero format", "<think> 3 * 4 </think> <answer> {} </answer>"),
    ("R1-zero format", "<think> 3 * 4 = 12 </think>\n<answer>\n{}\n</answer>"),
    ("Gemma", "Therefore, she has {} left.\n\nFinal Answer: The final answer is $\\boxed{{{}}}$"),
    ("Gemma", "**Answer:** She has **{}** left."),
    ("Phi", "Solution:\nWe have x + 3 = y.\nAnswer: {}"),
    ("SmolLM2", "So the total number is 3 + 4 = {}."),
    ("SmolLM2", "The final answer is $\\boxed{{{}}}$.\n\nI hope this helps!"),
    ("SmolLM2", "Answer:\n{}"),
    ("OpenMath", "the solution is\n\\[ \\boxed{{{}}}. \\]"),
    ("MAmmoTH", "So the answer is {}"),
    ("AQuA style", "Total = {}\nSo the answer is the option with value {}"),
    ("Orca", "#### Final answer: {}"),
    ("Tulu", "# Answer\n\n{}"),
    ("Tulu", "So the final answer is: {}. I hope it is correct."),
    ("Eurus", "Hence the answer is $\\boxed{{ {} }}$"),
    ("prose", "We subtract, and get {}"),
    ("prose", "In the end the answer would be {} in total."),
    ("prose", "The answer should be approximately {}."),
    ("prose", "The correct answer is therefore {}!"),
    ("prose", "Answer = {}"),
    ("prose", "ANSWER: {}"),
    ("prose", "The answer to the question is {}, since 7 of the 9 are taken."),
    ("prose", "The answer is {} because 2 of them are lost."),
    ("prose", "I first thought that the answer is 1000003. But the answer is {}."),
    ("prose", "The answer is {}. Let me double check that this answer is correct. Yes, it is."),
    ("prose", "#### {}\n\nThis agrees with the check."),
    ("prose", "#### {}. This agrees with the check."),
    ("prose", "####{}\n####"),
    ("instruction repeated", "I will put my final answer in \\boxed{{}}. We add. The answer is {}."),
    ("instruction repeated", "The answer goes into \\boxed{{...}}: \\boxed{{{}}}"),
    ("TeX without braces", "so the sum is $\\boxed {}$."),
    ("fbox", "It is \\fbox{{{}}}."),
    ("list", "Total:\n- first: 3\n- second: 4\n\n**Total: {}**"),
    ("code", "```python\nprint(3 + 4)\n```\nOutput: {}"),
    ("emphasis", "So the total is *{}*."),
    ("emphasis", "Therefore the answer is __{}__."),
]
VALUES = ["42", "-7", "1,234", "3.5", "18", "7/8"]

FORMULAS = [
    ("Minerva", "Final Answer: The final answer is ${}$. I hope it is correct."),
    ("Qwen2.5-Math", "Therefore,\n\\[x = 3, \\quad \\boxed{{{}}}.\\]"),
    ("Llama 3 Instruct", "The final answer is: $\\boxed{{{}}}$"),
    ("Qwen2.5", "Thus, the value is \\( {} \\)."),
    ("GPT-4o", "The answer is:\n\n$$\n{}\n$$"),
    ("GPT-4o", "**Answer:** \\( {} \\)"),
    ("GPT-4o", "So the simplified expression is:\n\\[\n{}\n\\]"),
    ("MATH", "Hence the answer is $\\boxed{{{}}}.$"),
    ("Mistral", "So the result is ${}$."),
    ("bare", "{}"),
    ("heading", "### Final Answer\n\n${}$"),
    ("R1-zero format", "<think> 1 + 1 </think><answer>{}</answer>"),
    ("display", "The answer is\n$${}$$"),
]
LATEX = [r"\frac{3}{4}", r"2\sqrt{3}", r"\left( 3, \frac{\pi}{2} \right)", r"x^2 + 3x - 4", r"(-\infty, 2] \cup [5, \infty)", r"\begin{pmatrix} 1 \\ -2 \end{pmatrix}"]

SINGLE = [    # text, correct answer
    (r"so $\boxed\frac{1}{2}$", "1/2"), (r"so $\boxed\frac12$", "1/2"), (r"answer is \boxed 5", "5"), (r"$\boxed 5$", "5"), (r"\boxed{\text{13}}", "13"), (r"\boxed{\$18.90}", "18.9"),
    ("it is .5", "0.5"), ("it is -.25", "-0.25"), ("11 5/6", "71/6"), ("So she walks 2 1/2 miles", "5/2"), ("So x is −5", "-5"), ("the total is $10,00", "10"), ("The answer is 5½.", "11/2"),
    (r"I shall fill \boxed{}. The answer is 5", "5"), ("The answer is 120% of the price of a single glass is 120", "120"),
    ("The answer is 24 hours * 60 minutes / 1 hour = 120 minutes", "120"), ("The answer is 5 (five).", "5"), ("The answer is 12 apples (3 red and 9 green).", "12"),
    ("She pays $1,234.50.", "1234.5"), ("She pays $29.00.", "29"), ("She pays **$29**", "29"), ("#### -$5", "-5"), ("#### $-5", "-5"), ("#### +5", "5"), ("#### 5 dollars", "5"),
    ("The answer is 18 dollars per day for 2 days.", "18"), ("It leaves at 12:30", "12:30"), ("Thus 1.5 × 10^6 bacteria", "1500000"), (r"about $3.5 \times 10^{-2}$ m", "0.035"),
    ("The answer is $5-2=3$", "3"), (r"The answer is $2+3=5$ because...", "5"), ("so 10 - 3 = 7", "7"), ("We get 10-3 = 7 apples", "7"), ("x = -3", "-3"), ("= 3 × 4\n= 12", "12"),
    ("The answer is 25%.", "25"), ("The probability is 25\\%", "25"), ("Answer: 3/4 of the cake", "3/4"), ("Final answer: 1 hour", "1"), ("The answer is €7.50", "7.5"), ("The answer is £20", "20"),
    ("The answer is ３７.", "37"), ("The answer is 12\u00a0000.", "12000"), ("the answer is 9.", "9"), ("the answer is: 9\n", "9"), ("So there're 9.", "9"), ("He has 3 and she has 9 .", "9"),
    (r"$\text{The answer is } 9$", "9"), (r"\[ x = \boxed{9} \text{ cm} \]", "9"), (r"$$\boxed{9\text{ cm}}$$", "9"), (r"\boxed{9^\circ}", "9"), (r"\boxed{x=9}", "9"), (r"\boxed{9}\boxed{}", "9"),
    (r"\boxed{10,\!080}", "10080"), (r"The answer is $10{,}080$", "10080"), (r"\boxed{\dfrac{1}{2}}", "1/2"), (r"\boxed{\tfrac12}", "1/2"), (r"\boxed{ 0.5 }", "1/2"), (r"\boxed{50\%}", "50"),
]

REPORTED = [  # text, correct answer
    ("**Final Answer:**\n\n42", "42"), ("**Answer:**\n42", "42"), ("The answer is:\n42", "42"), ("The answer is:\n\n$$42$$", "42"),
    ("#### 42. This agrees with the check", "42"), ("#### 42\n####", "42"),                                                         # verl 7274
    ("The answer is approximately 5.", "5"), (r"\boxed{004} no, \boxed{840}", "840"), ("So it is `73`", "73"), ("**73**", "73"),       # Math-Verify 44, 76
    ("The cost is $29.00.", "29"), ("It costs $1,000", "1000"), (r"\[\boxed{7}\]", "7"), (r"the result \fbox{7} holds", "7"),        # lm-eval 3214, 2552, 3643
    ("#### -3", "-3"), (r"#### -\$5", "-5"), (r"answer is \boxed.", None), (r"put it in \boxed{}. So 12", "12"),                      # open-instruct 1530, lm-eval 3477
]
